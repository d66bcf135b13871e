/**
 * Goal: what breaks in the middle of a rebuild costs the time that it takes, not what was received before. Method:
 * proxies in front of the pageservers slow the streams of files down and count their bytes; connections are reset, and
 * a pageserver is killed, half way.
 */
import { join } from 'node:path'
import { TcpProxy, temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { Road, until } from './cluster-support.ts'

const MIB = 1024 * 1024
/** The last one is written as far as it is filled. */
const WAL_SEGMENT_BYTES = 16 * MIB
/** On its way when a connection breaks: windows of HTTP/2, buffers of sockets. */
const UNDER_WAY_BYTES_MAX = 6 * MIB

test('a rebuild continues where its streams broke, under the same election', async () => {
  await using stack = new AsyncDisposableStack()
  const proxies = [0, 1].map(async () => TcpProxy.start({ target: '127.0.0.1:9' }))
  const [first, second] = [stack.use(await proxies[0]!), stack.use(await proxies[1]!)]
  const proxyOf: Readonly<Record<string, TcpProxy>> = { 'pageserver-1': first, 'pageserver-2': second }
  const folder = await temporaryDirectory({ prefix: 'resume' })
  const road = stack.use(
    new Road(folder, {
      dataDirectory: join(folder.path, 'data'),
      plan: (nodeId) =>
        proxyOf[nodeId] === undefined ? {} : { flags: ['--advertise', proxyOf[nodeId].address] },
    }),
  )
  await road.start()
  for (const { nodeId, address } of road.cluster.pageservers) proxyOf[nodeId]!.target = address
  await road.createTenant(road.tenant, 17)
  await road.query(
    'create table filler as select g, repeat(md5(g::text), 30) as t from generate_series(1, 60000) g',
  )
  await road.flushShards()

  const before = await road.runningCompute()
  const answered = (): number => first.answeredBytes + second.answeredBytes
  const startBytes = answered()
  first.delayMs = second.delayMs = 15
  process.kill(before.postmasterPid, 'SIGKILL')

  const passed = (proxy: TcpProxy, from: number, bytes: number): Promise<true> =>
    until('files to pass', () => (proxy.answeredBytes - from >= bytes ? true : undefined))
  const from = [first.answeredBytes, second.answeredBytes] as const
  await passed(first, from[0], 10 * MIB)
  first.reset()
  await passed(second, from[1], 15 * MIB)
  const [, killed] = road.cluster.pageservers
  await killed!.kill()
  await killed!.start()
  await passed(first, from[0], 20 * MIB)
  first.reset()
  first.delayMs = second.delayMs = 0

  const after = await road.runningCompute()
  const passedBytes = answered() - startBytes
  expect(after.term).toBe(before.term + 1n)
  expect(after.pid).toBe(before.pid)
  expect(await road.query('select count(*) from filler')).toMatchObject([{ count: '60000' }])
  await road.expectVerified()

  // A rebuild that nothing disturbs.
  const cleanFrom = answered()
  process.kill(after.postmasterPid, 'SIGKILL')
  await until('another rebuild', () => (rebuilds(road).length === 2 ? true : undefined))
  const cleanBytes = answered() - cleanFrom
  const [disturbed, clean] = rebuilds(road)
  expect(eventsOf(road).filter(({ event }) => event === 'compute_failed')).toEqual([])
  expect(clean).toMatchObject({ resumes: 0 })
  expect(clean!.bytes).toBeGreaterThan(60 * MIB)
  expect(disturbed!.resumes).toBeGreaterThanOrEqual(3)
  // 45 MiB at least were there already when a stream broke: they did not come again, nor were they written again.
  const figures = { cleanBytes, passedBytes, clean: clean!.bytes, disturbed: disturbed!.bytes }
  console.log(JSON.stringify(figures))
  expect(passedBytes).toBeLessThan(cleanBytes + 3 * UNDER_WAY_BYTES_MAX)
  expect(disturbed!.bytes).toBeLessThan(clean!.bytes! + WAL_SEGMENT_BYTES + MIB)
})

interface LoggedEvent {
  readonly event: string
  readonly bytes?: number
  readonly resumes?: number
}

const eventsOf = (road: Road): LoggedEvent[] =>
  road.cluster.computeHost
    .log()
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as LoggedEvent)
const rebuilds = (road: Road): LoggedEvent[] =>
  eventsOf(road).filter(({ event }) => event === 'pgdata_rebuilt')
