// Goal: the service over the network: a shard follows safekeepers that break off, without gap or repeat; import, reads,
// files, settings and refusals answer as the proto says.
// Method: a real cluster's files and WAL; two stand-in safekeepers that end each subscription after a few batches.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { lsnFromBigint, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realEnv, silentLog } from '@understory/env'
import { decodeTrackerState, parseControlFile } from '@understory/postgres/cluster'
import type { RedoSettings } from '@understory/postgres/redo'
import {
  PLAIN_SERVER,
  PLAIN_CLIENT,
  FullPageWrites,
  PageserverServiceClient,
  SUBSCRIBE_VERSIONS,
  SafekeeperServiceService,
  bidiStream,
  callClientStream,
  callServerStream,
  callUnary,
  createClient,
  openBidi,
  service,
  startServer,
  unary,
} from '@understory/rpc'
import type { Handlers, StreamFilesResponse } from '@understory/rpc'
import type {
  ImportShardRequest,
  RpcServer,
  SafekeeperServiceServer,
  SubscribeWalRequest,
  SubscribeWalResponse,
} from '@understory/rpc'
import {
  KEY_CONTROL_FILE,
  PAGE_BEYOND_END,
  PAGE_FOUND,
  blockKey,
  encodeImportBatch,
  PAGE_REQUESTS_COUNT_MAX,
  encodePageRequests,
  homeShard,
  shardOfKey,
} from '@understory/storage'
import { startPostgres, temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { pageserverService } from '../src/serve/api.ts'
import { TENANT, TIMELINE, batchesOf, openBench, valuesOfCluster } from './support.ts'

const MAJOR = 17
const TIMELINE_REF = { tenantId: TENANT, timelineId: TIMELINE }
const LAYOUT = { count: 2, stripeBlocks: 8 }
const NO_CHANGE = unary((): never => {
  throw new Error('not asked for')
})

interface StandIn extends AsyncDisposable {
  readonly address: string
  /** Where subscriptions began. */
  readonly starts: Lsn[]
}

/** Sends `batchesCount` batches a subscription, then breaks off. */
async function startStandIn(root: string, settings: RedoSettings, batchesCount: number): Promise<StandIn> {
  const starts: Lsn[] = []
  const subscribeWal = bidiStream<SubscribeWalRequest, SubscribeWalResponse>(async function* (requests) {
    let left = batchesCount
    for await (const { message } of requests) {
      if (message?.$case !== 'open') continue
      const { shard, startLsn } = message.value
      starts.push(lsnFromBigint(startLsn))
      for await (const batch of batchesOf(root, shard!, settings, lsnFromBigint(startLsn), 20_000)) {
        if (left-- === 0) throw fail('unavailable', 'breaks off')
        const { startLsn: from, endLsn, commitLsn, entries } = batch
        yield {
          startLsn: BigInt(from),
          endLsn: BigInt(endLsn),
          commitLsn: BigInt(commitLsn),
          protocolVersion: SUBSCRIBE_VERSIONS.max,
          entries: Buffer.from(entries),
          moreFollows: false,
        }
      }
    }
  })
  const others = {
    createTimeline: NO_CHANGE,
    propose: NO_CHANGE,
    readWal: NO_CHANGE,
    getWalStatus: NO_CHANGE,
    listWalTimelines: NO_CHANGE,
  }
  const implementation = { ...others, subscribeWal } as unknown as Handlers<SafekeeperServiceServer>
  const services = [service<SafekeeperServiceServer>(SafekeeperServiceService, implementation)]
  const server: RpcServer = await startServer(PLAIN_SERVER, { host: '127.0.0.1', port: 0, services })
  return { address: server.address, starts, [Symbol.asyncDispose]: () => server.stop(0) }
}

test(
  'a shard follows safekeepers that break off, and answers over the network',
  { timeout: 120_000 },
  async () => {
    const settings = { full_page_writes: false, autovacuum: false, wal_keep_size: '1GB' }
    await using server = await startPostgres({ major: MAJOR, started: false, settings })
    await using directory = await temporaryDirectory({ prefix: 'ps' })
    const root = server.dataDirectory
    const control = parseControlFile(await readFile(join(root, 'global/pg_control')))
    const startLsn = control.checkpoint.redoLsn
    const values = await Array.fromAsync(valuesOfCluster(root, MAJOR), ({ key, bytes }) => ({
      key,
      bytes: Uint8Array.from(bytes),
    }))
    await server.start()
    const sql = await server.connect()
    await sql.query(
      'create table t as select g a, md5(g::text) b from generate_series(1, 6000) g; create index on t (a)',
    )
    // A start with full_page_writes off says so in its first checkpoint.
    await sql.query('checkpoint')
    for (let i = 0; i < 100; i++) await sql.query('update t set b = b || $1 where a = 1', [String(i)])
    const { rows } = await sql.query<{ node: number; db: number }>(
      "select pg_relation_filenode('t')::int node, oid::int db from pg_database where datname = 'postgres'",
    )
    const { node, db } = rows[0]!
    await server.stop()

    const redoSettings = { major: MAJOR, dataChecksums: false, walLogHints: false } as const
    await using one = await startStandIn(root, redoSettings, 3)
    await using two = await startStandIn(root, redoSettings, 5)
    await using bench = await openBench(directory.path)
    const clock = realEnv(silentLog).clock
    const rpc = await startServer(PLAIN_SERVER, {
      host: '127.0.0.1',
      port: 0,
      services: [pageserverService(bench.registry, clock)],
    })
    onTestFinished(() => rpc.stop(0))
    const client = createClient(PLAIN_CLIENT, PageserverServiceClient, rpc.address)
    onTestFinished(() => client.close())

    const attachRequest = (number: number, generation: bigint) => ({
      timeline: TIMELINE_REF,
      shard: { ...LAYOUT, number },
      generation,
      create: true,
      safekeepers: [one.address, two.address],
      postgres: { major: MAJOR, systemId: control.systemId, pgTimelineId: 1, walSegmentBytes: 16 << 20 },
      imageGeneration: { enabled: false, thresholdRecords: 8 },
      rollback: undefined,
    })
    const refs = [0, 1].map((number) => ({ timeline: TIMELINE_REF, shard: { ...LAYOUT, number } }))
    for (const number of [0, 1]) {
      expect(await callUnary(client.attachShard.bind(client), attachRequest(number, 5n))).toEqual({
        ingestedLsn: 0n,
      })
      await expect(
        callUnary(client.attachShard.bind(client), attachRequest(number, 4n)),
      ).rejects.toMatchObject({ code: 'stale' })
      async function* messages(): AsyncGenerator<ImportShardRequest, void, void> {
        yield { message: { $case: 'open', value: { ...refs[number]!, startLsn: BigInt(startLsn) } } }
        const own = values.filter(
          ({ key }) => key.keyClass === KEY_CONTROL_FILE || shardOfKey(LAYOUT, key) === number,
        )
        for (let at = 0; at < own.length; at += 100) {
          yield { message: { $case: 'values', value: encodeImportBatch(own.slice(at, at + 100)) } }
        }
        yield { message: { $case: 'finish', value: { endLsn: BigInt(startLsn) } } }
      }
      const { valuesCount } = await callClientStream(client.importShard.bind(client), messages())
      expect(valuesCount).toBeGreaterThan(100n)
      await expect(callClientStream(client.importShard.bind(client), messages())).rejects.toMatchObject({
        code: 'already_exists',
      })
    }

    // The WAL's end is known by reading it once more.
    let endLsn = startLsn
    for await (const batch of batchesOf(root, { ...LAYOUT, number: 0 }, redoSettings, startLsn, 1 << 20))
      endLsn = batch.endLsn
    const control0 = await callUnary(client.getControlState.bind(client), {
      ...refs[0]!,
      lsn: BigInt(endLsn),
    })
    const stopped = parseControlFile(await readFile(join(root, 'global/pg_control')))
    expect(decodeTrackerState(control0.tracker)).toMatchObject({
      checkpointLsn: stopped.checkpointLsn,
      checkpointIsShutdown: true,
      nextOid: stopped.checkpoint.nextOid,
      nextXid: Number(stopped.checkpoint.nextXid),
      fullPageWrites: false,
    })
    // Several subscriptions, at both, each from where the one before ended.
    expect(one.starts.length).toBeGreaterThan(2)
    expect(two.starts.length).toBeGreaterThan(2)

    // Pages: every block of the table from its owner, the one beyond the end from the home shard.
    const file = await readFile(join(root, `base/${db}/${node}`))
    const home = homeShard(LAYOUT, node)
    for (const number of [0, 1]) {
      const blocks = Array.from({ length: file.length / 8192 }, (_, block) =>
        blockKey(1663, db, node, 0, block),
      ).filter((key) => shardOfKey(LAYOUT, key) === number)
      expect(blocks.length).toBeGreaterThan(3)
      const stream = openBidi(client.getPages.bind(client))
      await stream.send({
        ...refs[number]!,
        requests: encodePageRequests(blocks.map((key) => ({ key, lsn: endLsn }))),
      })
      const { value } = await stream.messages.next()
      expect([...value!.statuses]).toEqual(blocks.map(() => PAGE_FOUND))
      blocks.forEach(({ block }, i) => {
        expect(
          value!.pages.subarray(i * 8192, i * 8192 + 8).equals(file.subarray(block * 8192, block * 8192 + 8)),
        ).toBe(true)
      })
      // The largest request is answered in one message; a larger one is refused, and its stream ends.
      const many = (count: number): Buffer =>
        encodePageRequests(Array.from({ length: count }, () => ({ key: blocks[0]!, lsn: endLsn })))
      await stream.send({ ...refs[number]!, requests: many(PAGE_REQUESTS_COUNT_MAX) })
      const largest = (await stream.messages.next()).value!
      expect(largest.pages).toHaveLength(PAGE_REQUESTS_COUNT_MAX * 8192)
      const refused = openBidi(client.getPages.bind(client))
      await refused.send({ ...refs[number]!, requests: many(PAGE_REQUESTS_COUNT_MAX + 1) })
      await expect(refused.messages.next()).rejects.toMatchObject({
        code: 'bad_argument',
        message: 'page request asks for 4001 pages, the limit is 4000',
      })
      // Later messages need not name the shard again.
      const beyond = blockKey(1663, db, node, 0, 100_000 + (number === home ? 0 : 8))
      if (shardOfKey(LAYOUT, beyond) === number && number === home) {
        await stream.send({
          timeline: undefined,
          shard: undefined,
          requests: encodePageRequests([{ key: beyond, lsn: endLsn }]),
        })
        expect([...(await stream.messages.next()).value!.statuses]).toEqual([PAGE_BEYOND_END])
      }
      stream.cancel()
    }

    // full_page_writes is off, images had not been requested: they began by themselves, on every shard.
    const status = await callUnary(client.getShardStatus.bind(client), { timeline: TIMELINE_REF })
    for (const shard of status.shards) {
      expect(shard).toMatchObject({
        failure: '',
        ingestedLsn: BigInt(endLsn),
        imageGeneration: { enabled: true, thresholdRecords: 8 },
      })
      expect(shard.generatedImages).toBeGreaterThan(0n)
      expect(shard.chainMax).toBeLessThanOrEqual(16)
    }
    expect(status.shards.find(({ shard }) => shard?.number === 0)?.fullPageWrites).toBe(
      FullPageWrites.FULL_PAGE_WRITES_OFF,
    )
    expect(status.shards.reduce((sum, { getPages }) => sum + getPages, 0n)).toBeGreaterThanOrEqual(
      BigInt(file.length / 8192),
    )

    const off = { ...refs[1]!, imageGeneration: { enabled: false, thresholdRecords: 8 }, generation: 2n }
    await callUnary(client.setImageGeneration.bind(client), off)
    const flushed = await callUnary(client.flushShard.bind(client), refs[1]!)
    expect(flushed.remoteConsistentLsn).toBe(BigInt(endLsn))
    const paths = new Set<string>()
    for (const ref of refs) {
      const filesAfter = async (after: Buffer): Promise<StreamFilesResponse[]> => {
        const request = { ...ref, lsn: BigInt(endLsn), after }
        return Array.fromAsync(callServerStream(client.streamFiles.bind(client), request))
      }
      const all = await filesAfter(Buffer.alloc(0))
      for (const { piece } of all) if (piece?.$case === 'file') paths.add(piece.value.path)
      expect(all[0]?.pagesTotal).toBeGreaterThan(100n)
      // Behind any place the same comes again, once: what was sent, and what comes behind it, is everything.
      const digest = (messages: readonly StreamFilesResponse[]): string => {
        const hash = createHash('sha256')
        for (const { piece } of messages) {
          if (piece?.$case !== 'file') hash.update(`${JSON.stringify(piece)}\n`)
          else {
            const { path, offset, size, data } = piece.value
            hash.update(`${path} ${offset} ${size} ${data.length}\n`).update(data)
          }
        }
        return hash.digest('hex')
      }
      const places = [...all.keys()].filter((i) => all[i]!.place.length > 0)
      expect(places.length).toBeGreaterThan(100)
      const classesSeen = new Set<number>()
      for (const i of [0, 0.05, 0.1, 0.3, 0.6, 0.9, 1].map((part) =>
        Math.floor(part * (places.length - 1)),
      )) {
        const at = places[i]!
        classesSeen.add(all[at]!.place[0]!)
        const rest = await filesAfter(all[at]!.place)
        expect(rest.every(({ pagesTotal }) => pagesTotal === 0n)).toBe(true)
        expect(digest(rest)).toBe(digest(all.slice(at + 1)))
      }
      expect(classesSeen.size).toBe(3)
      for (const after of [Buffer.alloc(17), Buffer.alloc(18, 4)])
        await expect(filesAfter(after)).rejects.toMatchObject({ code: 'bad_argument' })
    }
    expect(paths).toContain('global/pg_filenode.map')
    expect(paths).toContain('pg_xact/0000')

    const unknown = { timeline: { ...TIMELINE_REF, tenantId: 'c'.repeat(32) }, shard: refs[0]!.shard }
    await expect(callUnary(client.flushShard.bind(client), unknown)).rejects.toMatchObject({
      code: 'unknown_timeline',
    })
    const malformed = { timeline: { ...TIMELINE_REF, tenantId: 'C' }, shard: refs[0]!.shard }
    await expect(callUnary(client.flushShard.bind(client), malformed)).rejects.toMatchObject({
      code: 'bad_argument',
    })
    await callUnary(client.detachShard.bind(client), refs[1]!)
    await callUnary(client.detachShard.bind(client), refs[1]!)
    await expect(callUnary(client.flushShard.bind(client), refs[1]!)).rejects.toMatchObject({
      code: 'unknown_timeline',
    })
    expect(bench.errors).toEqual([])
  },
)
