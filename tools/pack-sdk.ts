/**
 * `npm run sdk:pack -- [--output DIR]`: the SDK as an npm package that stands by itself. Own libraries are bundled in,
 * their types come along, and what is from npm stays a dependency. Prints the path of the tarball.
 */
import { execFileSync } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describeError, isErrorCode, fail } from '@understory/base'
import { parseOptions, text } from '@understory/env'
import { rolldown } from 'rolldown'

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const SDK = join(ROOT, 'libs/sdk')
const NODE_MIN = 22

const OPTIONS = {
  output: { read: text, fallback: '.', placeholder: 'DIR', help: 'where the tarball goes' },
} as const

interface Manifest {
  readonly version: string
  readonly dependencies: Readonly<Record<string, string>>
}
const manifestOf = async (library: string): Promise<Manifest> =>
  JSON.parse(await readFile(join(ROOT, 'libs', library, 'package.json'), 'utf8')) as Manifest

/** Refused `precondition` where the bundle needs what the package does not bring. */
async function bundle(folder: string, dependencies: readonly string[]): Promise<void> {
  const build = await rolldown({
    input: join(SDK, 'src/index.ts'),
    platform: 'node',
    external: (id) => !/^[./\0]|^@understory\/|^@oxc-project\//.test(id),
    transform: { target: `node${NODE_MIN}` },
    treeshake: { moduleSideEffects: false },
  })
  const { output } = await build.write({ file: join(folder, 'dist/index.js'), format: 'esm' })
  await build.close()
  const isBrought = (id: string): boolean =>
    id.startsWith('node:') || dependencies.some((name) => id === name || id.startsWith(`${name}/`))
  const missing = output[0].imports.filter((id) => !isBrought(id))
  if (missing.length > 0) throw fail('precondition', `the bundle needs ${missing.join(', ')} as well`)
}

/** Declarations of the SDK and of what its types name, nothing else, with paths in place of package names. */
async function declare(folder: string): Promise<void> {
  const types = join(folder, 'dist/types')
  const config = join(folder, 'tsconfig.json')
  const compilerOptions = {
    noEmit: false,
    emitDeclarationOnly: true,
    declaration: true,
    rootDir: join(ROOT, 'libs'),
    outDir: types,
    typeRoots: [join(ROOT, 'node_modules/@types')],
  }
  // Of packages, as which the compiler sees the SDK's own libraries, it declares only what it is given by name.
  const files = ['sdk', 'base', 'rpc'].map((library) => join(ROOT, 'libs', library, 'src/index.ts'))
  await writeFile(
    config,
    JSON.stringify({ extends: join(ROOT, 'tsconfig.json'), include: [], files, compilerOptions }),
  )
  execFileSync(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', config], {
    stdio: ['ignore', process.stderr, 'inherit'],
  })
  await rm(config)
  await narrow(join(types, 'rpc/src/index.d.ts'))
  const named = await nameByPath(join(types, 'sdk/src/index.d.ts'), types)
  for (const name of await readdir(types, { recursive: true })) {
    const path = join(types, name)
    if (name.endsWith('.d.ts') && !named.has(path)) await rm(path)
  }
  const index = join(types, 'sdk/src/index.d.ts')
  // Pages are `Buffer`s: a compiler that takes no types of itself needs the place where that is declared.
  await writeFile(index, `/// <reference types="node" />\n${await readFile(index, 'utf8')}`)
}

/** Of rpc the SDK's types name messages alone: what serves and connects is left out, with all that it names. */
async function narrow(index: string): Promise<void> {
  const lines = (await readFile(index, 'utf8')).split('\n')
  await writeFile(index, `${lines.filter((line) => line.includes(`'./gen/`)).join('\n')}\n`)
}

/** Every declaration that `entry` leads to, with its imports rewritten. */
async function nameByPath(entry: string, types: string): Promise<ReadonlySet<string>> {
  const seen = new Set<string>([entry])
  for (const path of seen) {
    const declarations = await withPaths(await readFile(path, 'utf8'), dirname(path), types)
    await writeFile(path, declarations)
    for (const [, to] of declarations.matchAll(/(?:from|import\() ?['"](\.{1,2}\/[^'"]+)\.js['"]/g))
      seen.add(join(dirname(path), `${to}.d.ts`))
  }
  return seen
}

async function withPaths(declarations: string, from: string, types: string): Promise<string> {
  let result = declarations.replaceAll(/(['"])(\.{1,2}\/[^'"]+)\.ts\1/g, '$1$2.js$1')
  for (const [found, library, sub] of declarations.matchAll(/@understory\/([a-z-]+)((?:\/[a-z-]+)*)/g)) {
    const { exports } = JSON.parse(
      await readFile(join(ROOT, 'libs', library as string, 'package.json'), 'utf8'),
    ) as { exports: string | Record<string, string> }
    const source = typeof exports === 'string' ? exports : exports[`.${sub}`]
    if (source === undefined) continue
    const target = relative(from, join(types, library as string, source)).replace(/\.ts$/, '.js')
    const specifier = target.startsWith('.') ? target : `./${target}`
    result = result.replaceAll(new RegExp(`(['"])${found}\\1`, 'g'), `$1${specifier}$1`)
  }
  return result
}

async function pack(output: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'understory-sdk-'))
  try {
    const [{ version }, rpc] = [await manifestOf('sdk'), await manifestOf('rpc')]
    const dependencies = Object.fromEntries(
      Object.entries(rpc.dependencies).filter(([name]) => !name.startsWith('@understory/')),
    )
    await bundle(folder, Object.keys(dependencies))
    await declare(folder)
    const manifest = {
      name: '@understory/sdk',
      version,
      description: 'Client of Understory, storage for unmodified PostgreSQL',
      license: 'Apache-2.0',
      type: 'module',
      keywords: ['postgresql', 'storage', 'grpc', 'understory'],
      sideEffects: false,
      exports: {
        '.': { types: './dist/types/sdk/src/index.d.ts', default: './dist/index.js' },
        './package.json': './package.json',
      },
      engines: { node: `>=${NODE_MIN}` },
      // Declarations name `Buffer`.
      dependencies: { ...dependencies, '@types/node': `>=${NODE_MIN}` },
    }
    await writeFile(join(folder, 'package.json'), `${JSON.stringify(manifest, undefined, 2)}\n`)
    for (const part of ['README.md', 'examples'])
      await cp(join(SDK, part), join(folder, part), { recursive: true })
    await cp(join(ROOT, 'LICENSE'), join(folder, 'LICENSE'))
    await cp(join(ROOT, 'proto'), join(folder, 'proto'), { recursive: true })
    await mkdir(output, { recursive: true })
    const [made] = JSON.parse(
      execFileSync('npm', ['pack', '--json', '--pack-destination', resolve(output)], {
        cwd: folder,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }),
    ) as [{ filename: string }]
    return join(resolve(output), made.filename)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

try {
  const options = parseOptions('sdk:pack', OPTIONS, process.argv.slice(2), process.env)
  process.stdout.write(options.kind === 'help' ? options.text : `${await pack(options.values.output)}\n`)
} catch (error) {
  process.stderr.write(`understory sdk:pack: ${describeError(error)}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
