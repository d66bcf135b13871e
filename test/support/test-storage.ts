/**
 * For tests: a safekeeper and shards in this process, reached over gRPC, that follow a real Postgres. Its cluster is
 * imported while it is stopped; then its WAL files are read and appended as a proposer of one would.
 */
import { open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  advance,
  lsnFromBigint,
  lsnToBigint,
  minLsn,
  offsetInSegment,
  parseLsn,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn, ShardIdentity, TenantId, TimelineId } from '@understory/base'
import { realClock, realDisk, silentLog, realRng } from '@understory/env'
import { CONTROL_FILE_PATH, parseControlFile } from '@understory/postgres/cluster'
import { WAL_SEGMENT_BYTES, walFileName } from '@understory/postgres/wal'
import {
  PLAIN_SERVER,
  PLAIN_CLIENT,
  SafekeeperServiceClient,
  callUnary,
  createClient,
  startServer,
} from '@understory/rpc'
import { temporaryDirectory } from '@understory/testcontainers'
import type { PostgresServer } from '@understory/testcontainers'
import { pageserverService } from '../../apps/pageserver/src/serve/api.ts'
import type { Shard } from '../../apps/pageserver/src/shard/shard.ts'
import { importCluster, openBench } from '../../apps/pageserver/test/support.ts'
import { CatchUpScheduler } from '../../apps/safekeeper/src/recovery/catch-up-scheduler.ts'
import { safekeeperService } from '../../apps/safekeeper/src/serve/service.ts'
import { Timelines } from '../../apps/safekeeper/src/timeline/timelines.ts'
import { unlimitedQuota } from '../../apps/safekeeper/src/timeline/node-quota.ts'
import { SingleProposer } from '../../apps/safekeeper/test/single-proposer.ts'
import { asRecordEnd } from '@understory/pgdata'
import type { PgdataSource } from '@understory/pgdata'

export const TIMELINE = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }

export interface TestStorage extends AsyncDisposable {
  readonly source: PgdataSource
  readonly shards: readonly Shard[]
  readonly errors: readonly string[]
  readonly startLsn: Lsn
  /** Everything before is on the safekeeper and committed. */
  readonly endLsn: Lsn
  /** Appends what the server has flushed and commits it; returns the flush position as a record end. */
  feed(): Promise<Lsn>
  /** The same with given bytes, at the end. */
  append(bytes: Uint8Array): Promise<void>
  /** Feeds again and again until it is disposed. */
  follow(): AsyncDisposable
}

/** `server` is prepared, and not started yet. */
export async function openTestStorage(
  server: PostgresServer,
  layout = { count: 2, stripeBlocks: 4 },
): Promise<TestStorage> {
  const stack = new AsyncDisposableStack()
  try {
    const folder = stack.use(await temporaryDirectory({ prefix: 'st' }))
    const control = parseControlFile(await readFile(join(server.dataDirectory, CONTROL_FILE_PATH)))
    const identity = {
      major: server.major,
      systemId: control.systemId,
      pgTimelineId: control.checkpoint.timelineId,
      walSegmentBytes: WAL_SEGMENT_BYTES,
    }
    const walStartLsn = segmentStart(
      segmentOf(control.checkpoint.redoLsn, WAL_SEGMENT_BYTES),
      WAL_SEGMENT_BYTES,
    )

    const timelines = new Timelines({
      disk: realDisk,
      log: silentLog,
      dataDir: join(folder.path, 'sk'),
      quota: unlimitedQuota(realClock),
      clock: realClock,
      rng: realRng,
    })
    await timelines.openAll()
    const catchUpScheduler = new CatchUpScheduler({
      rpc: PLAIN_CLIENT,
      timelines,
      nodeId: 'sk',
      clock: realClock,
    })
    const safekeeper = await startServer(PLAIN_SERVER, {
      host: '127.0.0.1',
      port: 0,
      services: [
        safekeeperService({ timelines, catchUpScheduler, nodeId: 'sk', clock: realClock, log: silentLog }),
      ],
    })
    const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, safekeeper.address)
    const startLsn = lsnToBigint(walStartLsn)
    await callUnary(client.createTimeline.bind(client), {
      timeline: TIMELINE,
      postgres: identity,
      startLsn,
    })
    const proposer = new SingleProposer(client)
    await proposer.lead(TIMELINE, identity, 1)
    stack.defer(async () => {
      proposer.close()
      client.close()
      await timelines.close()
      await safekeeper.stop(50)
    })

    const bench = stack.use(await openBench(join(folder.path, 'ps')))
    const shards: Shard[] = []
    for (let number = 0; number < layout.count; number++) {
      const shard: ShardIdentity = { ...layout, number }
      const owner = {
        tenantId: TIMELINE.tenantId as TenantId,
        timelineId: TIMELINE.timelineId as TimelineId,
        shard,
      }
      const postgres = identity
      const imageGeneration = { enabled: true, thresholdRecords: 16 }
      await bench.registry.attach({
        owner,
        generation: 1,
        create: true,
        safekeepers: [safekeeper.address],
        postgres,
        imageGeneration,
      })
      shards.push(bench.registry.get(owner.tenantId, owner.timelineId, shard))
    }
    await importCluster(shards, server.dataDirectory, server.major)
    const pageserver = await startServer(PLAIN_SERVER, {
      host: '127.0.0.1',
      port: 0,
      services: [pageserverService(bench.registry, realClock)],
    })
    stack.defer(() => pageserver.stop(50))

    const feeder = new Feeder(server, client, proposer, walStartLsn)
    stack.defer(() => feeder.end())
    const owned = stack.move()
    return {
      source: {
        rpc: PLAIN_CLIENT,
        timeline: TIMELINE,
        postgres: identity,
        pageservers: shards.map(() => pageserver.address),
        stripeBlocks: layout.stripeBlocks,
        safekeepers: ['127.0.0.1:9', safekeeper.address],
        patienceMs: 30_000,
      },
      shards,
      errors: bench.errors,
      startLsn: control.checkpoint.redoLsn,
      get endLsn() {
        return feeder.endLsn
      },
      feed: () => feeder.feed(),
      append: (bytes) => feeder.append(bytes),
      follow: () => feeder.follow(),
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    }
  } catch (error) {
    await stack.disposeAsync()
    throw error
  }
}

const READ_BYTES = 1024 * 1024

class Feeder {
  readonly #server: PostgresServer
  readonly #proposer: SingleProposer
  readonly #safekeeper: SafekeeperServiceClient
  endLsn: Lsn
  #client: Awaited<ReturnType<PostgresServer['connect']>> | undefined
  #feeding: Promise<unknown> = Promise.resolve()

  constructor(
    server: PostgresServer,
    safekeeper: SafekeeperServiceClient,
    proposer: SingleProposer,
    startLsn: Lsn,
  ) {
    this.#server = server
    this.#safekeeper = safekeeper
    this.#proposer = proposer
    this.endLsn = startLsn
  }

  feed(): Promise<Lsn> {
    const next = this.#feeding.then(() => this.#feed())
    this.#feeding = next.catch(() => undefined)
    return next
  }

  async #feed(): Promise<Lsn> {
    this.#client ??= await this.#server.connect()
    const { rows } = await this.#client.query<{ at: string }>('select pg_current_wal_flush_lsn()::text as at')
    const flushLsn = asRecordEnd(parseLsn((rows[0] as { at: string }).at), WAL_SEGMENT_BYTES)
    while (this.endLsn < flushLsn) {
      const segment = segmentOf(this.endLsn, WAL_SEGMENT_BYTES)
      const to = minLsn(
        flushLsn,
        minLsn(segmentStart(segment + 1, WAL_SEGMENT_BYTES), advance(this.endLsn, READ_BYTES)),
      )
      const path = join(this.#server.dataDirectory, 'pg_wal', walFileName(1, segment, WAL_SEGMENT_BYTES))
      await using file = await open(path, 'r')
      const bytes = Buffer.alloc(to - this.endLsn)
      await file.read(bytes, 0, bytes.length, offsetInSegment(this.endLsn, WAL_SEGMENT_BYTES))
      await this.#proposer.append(this.endLsn, bytes)
      this.endLsn = to
    }
    const recordEndLsn = await this.#reaches('flushLsn', flushLsn)
    this.#proposer.commitLsn = recordEndLsn
    await this.#proposer.append(this.endLsn, new Uint8Array(0))
    return this.#reaches('commitLsn', recordEndLsn)
  }

  /** The safekeeper's position, once it is `at`: short of it only where Postgres flushed a part of a record. */
  async #reaches(position: 'flushLsn' | 'commitLsn', at: Lsn): Promise<Lsn> {
    const client = this.#safekeeper
    for (let attempt = 0; ; attempt++) {
      const status = await callUnary(client.getWalStatus.bind(client), { timeline: TIMELINE })
      if (attempt === 50 || Number(status[position]) >= at) return lsnFromBigint(status[position])
      await realClock.sleep(10)
    }
  }

  async append(bytes: Uint8Array): Promise<void> {
    await this.#proposer.append(this.endLsn, bytes)
    this.endLsn = advance(this.endLsn, bytes.length)
    this.#proposer.commitLsn = await this.#reaches('flushLsn', this.endLsn)
    await this.#proposer.append(this.endLsn, new Uint8Array(0))
    await this.#reaches('commitLsn', this.endLsn)
  }

  follow(): AsyncDisposable {
    let isOver = false
    const running = (async () => {
      while (!isOver) {
        await this.feed()
        await realClock.sleep(10)
      }
    })()
    running.catch(() => undefined)
    return {
      [Symbol.asyncDispose]: async () => {
        isOver = true
        await running
      },
    }
  }

  async end(): Promise<void> {
    await this.#feeding
  }
}
