// Goal: `understory smoke-test` passes over what is well, and names what is not. Method: the command against a real
// cluster.
import { expect, test } from 'vitest'
import { runCli, startRoad } from './cluster-support.ts'

const NODES = '--nodes=control-plane=1,safekeeper=1,pageserver=2'

test('the smoke test writes, switches, and reads back by SQL and out of storage', async () => {
  await using road = await startRoad({ safekeepers: 1 })
  const { code, stdout, stderr } = await runCli(
    road.cluster,
    'smoke-test',
    road.tenant,
    NODES,
    '--new-password',
  )
  // Its progress, and nothing else.
  expect(stderr.trim().split('\n').at(-1)).toBe('Postgres is open for SQL')
  const done = stdout.split('\n').filter((line) => line.startsWith('ok '))
  expect(done).toEqual([
    'ok  1 of kind control-plane serve',
    'ok  1 of kind safekeeper serve',
    'ok  2 of kind pageserver serve',
    'ok  1000 rows written',
    expect.stringMatching(/^ok {2}full_page_writes off since \S+, after \d+ ms, over the same connection$/),
    'ok  1000 rows changed and read back',
    expect.stringMatching(/^ok {2}1000 rows found in [1-9]\d* pages of storage at \S+$/),
    expect.stringMatching(/^ok {2}1 safekeepers and \d shards answer$/),
  ])
  expect(code).toBe(0)

  // Again, over the table that is there by then, and with one that hangs: it is announced for a while yet.
  const [, hung] = road.cluster.pageservers
  process.kill(hung?.pid ?? 0, 'SIGSTOP')
  try {
    const again = await runCli(
      road.cluster,
      'smoke-test',
      road.tenant,
      '--nodes=pageserver=2',
      '--new-password',
    )
    expect(again.code).toBe(1)
    expect(again.stderr).toContain(hung?.address)
  } finally {
    process.kill(hung?.pid ?? 0, 'SIGCONT')
  }
})

test('a node that is missing is named by its kind, and a count that is none is refused', async () => {
  await using road = await startRoad({ safekeepers: 1, pageservers: 1 })
  const missing = await runCli(
    road.cluster,
    'smoke-test',
    road.tenant,
    '--nodes=pageserver=2',
    '--new-password',
  )
  expect(missing.code).toBe(1)
  expect(missing.stderr).toContain('1 of 2 nodes of kind pageserver are there')
  const wrong = await runCli(road.cluster, 'smoke-test', road.tenant, '--nodes=pageserver')
  expect(wrong.stderr).toContain('KIND=COUNT')
  expect(wrong.code).not.toBe(0)
})
