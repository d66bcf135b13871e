/**
 * The folder that goes into the image: the apps, the libs they use, and the packages that those need in production, as
 * they are installed here. Nothing is downloaded.
 */
import { existsSync } from 'node:fs'
import { cp, mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { basename, dirname, join, relative } from 'node:path'
import { fail } from '@understory/base'
import { ROOT } from '../run-command.ts'

const APPS = ['cli', 'compute-proxy', 'control-plane', 'pageserver', 'safekeeper']

/** An entry of package-lock.json (version 3), as far as it is used. */
interface Locked {
  /** Of a workspace: its folder. */
  readonly resolved?: string
  readonly link?: boolean
  readonly dependencies?: Readonly<Record<string, string>>
  readonly optionalDependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
}

export interface Closure {
  /** Folders of workspaces. */
  readonly workspaces: readonly string[]
  /** Paths below node_modules of other packages. */
  readonly packages: readonly string[]
}

/**
 * The packages that the workspaces in `roots` need in production; `isInstalled` says which optional packages are here.
 */
export function closureOf(
  packages: Readonly<Record<string, Locked>>,
  roots: readonly string[],
  isInstalled: (path: string) => boolean,
): Closure {
  const found = new Set<string>()
  const queue = [...roots]
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    if (found.has(path)) continue
    found.add(path)
    const entry = packages[path]
    if (entry === undefined) throw fail('precondition', `package-lock.json has no "${path}"`)
    const { dependencies = {}, optionalDependencies = {}, peerDependencies = {} } = entry
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies })) {
      const at = resolvePackage(packages, path, name)
      if (at !== undefined && (packages[at]?.link === true || isInstalled(at))) {
        queue.push(packages[at]?.link === true ? (packages[at].resolved as string) : at)
      } else if (name in dependencies && !(name in optionalDependencies)) {
        throw fail('precondition', `package "${name}", which "${path}" needs, is not installed`, {
          hint: 'Run npm install.',
        })
      }
    }
  }
  const all = [...found].toSorted()
  return {
    workspaces: all.filter((path) => !path.includes('node_modules/')),
    packages: all.filter((path) => path.includes('node_modules/')),
  }
}

/** As Node looks for it: beside, then in each folder above. */
function resolvePackage(
  packages: Readonly<Record<string, Locked>>,
  from: string,
  name: string,
): string | undefined {
  for (let folder = from; ; folder = dirname(folder)) {
    const at = folder === '.' || folder === '' ? `node_modules/${name}` : `${folder}/node_modules/${name}`
    if (packages[at] !== undefined) return at
    if (folder === '.' || folder === '') return undefined
  }
}

const isOwnNeeded = (path: string): boolean =>
  !/\.test\.ts$|\.md$/.test(path) && !/\/(test|testdata)(\/|$)/.test(path)
/** Types, source maps and prose do not run. */
const isForeignNeeded = (path: string): boolean =>
  !/\.(map|d\.ts|d\.mts|d\.cts|md|markdown)$/i.test(path) && basename(path) !== 'dist-types'

/** Makes `directory` again. */
export async function writeProductionTree(directory: string): Promise<Closure> {
  const lock = JSON.parse(await readFile(join(ROOT, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, Locked>
  }
  const closure = closureOf(
    lock.packages,
    APPS.map((app) => `apps/${app}`),
    (path) => existsSync(join(ROOT, path)),
  )
  await rm(directory, { recursive: true, force: true })
  for (const path of closure.workspaces) await copy(path, directory, isOwnNeeded)
  for (const path of closure.packages) {
    // Packages installed within a package are listed by themselves.
    await copy(path, directory, (source) => isForeignNeeded(source) && basename(source) !== 'node_modules')
  }
  await linkWorkspaces(directory, closure)
  await cp(join(ROOT, 'deploy/docker/start.mjs'), join(directory, 'start.mjs'))
  await writeFile(
    join(directory, 'package.json'),
    '{ "name": "understory", "type": "module", "private": true }\n',
  )
  return closure
}

async function copy(path: string, directory: string, isNeeded: (source: string) => boolean): Promise<void> {
  await cp(join(ROOT, path), join(directory, path), {
    recursive: true,
    filter: (source) => source === join(ROOT, path) || isNeeded(source.slice(ROOT.length)),
  })
}

/** Node refuses TypeScript below node_modules, so libs are linked from there, as npm does. */
async function linkWorkspaces(directory: string, { workspaces }: Closure): Promise<void> {
  for (const path of workspaces) {
    const { name } = JSON.parse(await readFile(join(ROOT, path, 'package.json'), 'utf8')) as { name: string }
    const link = join(directory, 'node_modules', name)
    await mkdir(dirname(link), { recursive: true })
    await symlink(relative(dirname(link), join(directory, path)), link)
  }
}
