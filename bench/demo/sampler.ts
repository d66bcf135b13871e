/**
 * Watches the pageservers during a phase: chain lengths every second, and reads of random pages at the newest LSN, so
 * that read latency under load is measured in both phases alike.
 */
import { lsnFromBigint } from '@understory/base'
import type { Lsn } from '@understory/base'
import { PageStream } from '@understory/protocol/page-client'
import { PLAIN_CLIENT, PageserverServiceClient, callUnary, createClient } from '@understory/rpc'
import type { ShardRef, ShardStatus, TimelineRef } from '@understory/rpc'
import { blockKey, shardOfBlock } from '@understory/storage'
import type { PageRequest } from '@understory/storage'
import type pg from 'pg'

const SAMPLE_MS = 1_000
/** Page reads a second over all shards: few beside the load, enough for a p99 over a phase. */
const READS_PER_SAMPLE = 100

export interface ShardAddress {
  readonly address: string
  readonly shard: ShardRef
}

export interface SampledFigures {
  readonly imagesByStorage: number
  readonly chainP50: number
  readonly chainP99: number
  readonly chainMax: number
  readonly getPageP50Us: number
  readonly getPageP99Us: number
}

/** A relation whose pages are read: main fork, ordinary tables and indexes of the workload. */
interface SampledRelation {
  readonly spcOid: number
  readonly dbOid: number
  readonly rel: number
  readonly blocks: number
}

export async function sampledRelations(client: pg.Client): Promise<SampledRelation[]> {
  const { rows } = await client.query<{ spc: string; db: string; rel: string; blocks: string }>(
    `select case when reltablespace = 0 then (select dattablespace from pg_database where datname = current_database())
                 else reltablespace end as spc,
            (select oid from pg_database where datname = current_database()) as db,
            pg_relation_filenode(c.oid) as rel,
            pg_relation_size(c.oid) / 8192 as blocks
       from pg_class c join pg_namespace n on n.oid = relnamespace
      where relkind in ('r', 'i') and relpersistence = 'p' and n.nspname = 'public' and pg_relation_size(c.oid) > 0`,
  )
  return rows.map(({ spc, db, rel, blocks }) => ({
    spcOid: Number(spc),
    dbOid: Number(db),
    rel: Number(rel),
    blocks: Number(blocks),
  }))
}

export class Sampler {
  readonly #timeline: TimelineRef
  readonly #shards: readonly ShardAddress[]
  readonly #clients: readonly PageserverServiceClient[]
  readonly #relations: readonly SampledRelation[]
  readonly #stop = new AbortController()
  #chainP50 = 0
  #chainP99 = 0
  #chainMax = 0
  #before: readonly ShardStatus[] = []
  #running: Promise<void> | undefined

  constructor(timeline: TimelineRef, shards: readonly ShardAddress[], relations: readonly SampledRelation[]) {
    this.#timeline = timeline
    this.#shards = shards
    this.#relations = relations
    this.#clients = shards.map(({ address }) => createClient(PLAIN_CLIENT, PageserverServiceClient, address))
  }

  async start(): Promise<void> {
    this.#before = await this.statuses()
    this.#running = this.#run()
  }

  async stop(): Promise<SampledFigures> {
    this.#stop.abort()
    await this.#running
    const after = await this.statuses()
    const images = (statuses: readonly ShardStatus[]): number =>
      statuses.reduce((sum, { generatedImages }) => sum + Number(generatedImages), 0)
    const reads = histogramDelta(this.#before, after)
    return {
      imagesByStorage: images(after) - images(this.#before),
      chainP50: this.#chainP50,
      chainP99: this.#chainP99,
      chainMax: this.#chainMax,
      getPageP50Us: quantile(reads, 0.5),
      getPageP99Us: quantile(reads, 0.99),
    }
  }

  async statuses(): Promise<ShardStatus[]> {
    return Promise.all(
      this.#shards.map(async ({ shard }, i) => {
        const client = this.#clients[i] as PageserverServiceClient
        const { shards } = await callUnary(client.getShardStatus.bind(client), { timeline: this.#timeline })
        const found = shards.find((item) => item.shard?.number === shard.number)
        if (found === undefined) throw new Error(`pageserver does not serve shard ${shard.number}`)
        return found
      }),
    )
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      const statuses = await this.statuses()
      for (const { chainP50, chainP99, chainMax } of statuses) {
        this.#chainP50 = Math.max(this.#chainP50, chainP50)
        this.#chainP99 = Math.max(this.#chainP99, chainP99)
        this.#chainMax = Math.max(this.#chainMax, chainMax)
      }
      const [first, ...rest] = statuses.map(({ ingestedLsn }) => lsnFromBigint(ingestedLsn))
      if (first !== undefined) await this.#readPages(rest.reduce((a, b) => (a < b ? a : b), first))
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, SAMPLE_MS)
        this.#stop.signal.addEventListener(
          'abort',
          () => {
            clearTimeout(timer)
            resolve()
          },
          { once: true },
        )
      })
    }
  }

  /** One page a request, as a compute that misses its cache asks. */
  async #readPages(lsn: Lsn): Promise<void> {
    const [{ shard: layout } = { shard: undefined }] = this.#shards
    if (layout === undefined || this.#relations.length === 0) return
    const requests = this.#shards.map((): PageRequest[] => [])
    for (let i = 0; i < READS_PER_SAMPLE; i++) {
      const relation = this.#relations[Math.floor(Math.random() * this.#relations.length)] as SampledRelation
      const block = Math.floor(Math.random() * relation.blocks)
      const key = blockKey(relation.spcOid, relation.dbOid, relation.rel, 0, block)
      requests[shardOfBlock(layout, relation.rel, block)]?.push({ key, lsn })
    }
    await Promise.all(requests.map((list, i) => this.#readFrom(i, list)))
  }

  async #readFrom(index: number, list: readonly PageRequest[]): Promise<void> {
    if (list.length === 0) return
    const client = this.#clients[index] as PageserverServiceClient
    const { shard } = this.#shards[index] as ShardAddress
    const call = { peer: `pageserver of shard ${shard.number}` }
    const stream = new PageStream({ client, timeline: this.#timeline, shard, call })
    try {
      for (const request of list) await stream.read([request])
    } finally {
      stream.close()
    }
  }
}

/** Counts by upper edge in µs, of what was read between the two looks. */
function histogramDelta(before: readonly ShardStatus[], after: readonly ShardStatus[]): Map<number, number> {
  const counts = new Map<number, number>()
  const add = (statuses: readonly ShardStatus[], sign: number): void => {
    for (const { getPageHistogramUs: pairs } of statuses) {
      for (let i = 0; i + 1 < pairs.length; i += 2) {
        const edge = Number(pairs[i])
        counts.set(edge, (counts.get(edge) ?? 0) + sign * Number(pairs[i + 1]))
      }
    }
  }
  add(after, 1)
  add(before, -1)
  return counts
}

/** Upper edge of the bucket that holds the quantile; 0 where nothing was read. */
function quantile(counts: ReadonlyMap<number, number>, share: number): number {
  const edges = [...counts.keys()].toSorted((a, b) => a - b)
  const total = [...counts.values()].reduce((a, b) => a + b, 0)
  let seen = 0
  for (const edge of edges) {
    seen += counts.get(edge) as number
    if (total > 0 && seen >= share * total) return edge
  }
  return 0
}
