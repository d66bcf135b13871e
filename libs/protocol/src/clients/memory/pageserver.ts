/** A pageserver that remembers which shards it was requested to serve, and no page. */
import { formatLsn, lsnFromBigint, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { ShardStatus } from '@understory/rpc'
import type { CallOptions, ShardRef, StreamFilesResponse, TimelineRef } from '@understory/rpc'
import type { ImageGenerationSettings } from '@understory/storage'
import type { ControlState, PageserverClient, ShardToAttach } from '../pageserver.ts'
import { MemoryNode } from './node.ts'

interface Served {
  readonly attached: ShardToAttach
  status: ShardStatus
  revision: number
}

export class MemoryPageserver extends MemoryNode implements PageserverClient {
  readonly #shards = new Map<string, Served>()

  constructor(nodeId: string) {
    super(`pageserver "${nodeId}"`)
  }

  /** With what a shard was attached last; undefined where it is not served. */
  attached(timeline: TimelineRef, number: number): ShardToAttach | undefined {
    return this.#shards.get(nameOf(timeline, number))?.attached
  }

  /** Changes what it says of a shard that it serves. */
  set(timeline: TimelineRef, number: number, change: Partial<ShardStatus>): void {
    const shard = this.#served(timeline, number)
    shard.status = { ...shard.status, ...change }
  }

  async shards(timeline: TimelineRef, options?: CallOptions): Promise<readonly ShardStatus[]> {
    await this.reach('shards', options)
    return [...this.#shards.values()]
      .filter(({ attached }) => attached.timeline.timelineId === timeline.timelineId)
      .map(({ status }) => status)
  }

  async attachShard(shard: ShardToAttach, options?: CallOptions): Promise<Lsn> {
    await this.reach('attachShard', options)
    const name = nameOf(shard.timeline, shard.shard.number)
    const before = this.#shards.get(name)
    const generation = BigInt(shard.generation)
    if (before !== undefined && before.status.generation > generation)
      throw fail('stale', `generation ${before.status.generation} is newer than ${generation}`)
    const status = ShardStatus.fromPartial({
      imageGeneration: shard.imageGeneration,
      ...before?.status,
      timeline: shard.timeline,
      shard: shard.shard,
      generation,
      failure: '',
    })
    this.#shards.set(name, { attached: shard, status, revision: before?.revision ?? 0 })
    return lsnFromBigint(status.ingestedLsn)
  }

  async detachShard(timeline: TimelineRef, { number }: ShardRef, options?: CallOptions): Promise<void> {
    await this.reach('detachShard', options)
    this.#shards.delete(nameOf(timeline, number))
  }

  async setImageGeneration(
    timeline: TimelineRef,
    { number }: ShardRef,
    settings: ImageGenerationSettings,
    revision: number,
    options?: CallOptions,
  ): Promise<void> {
    await this.reach('setImageGeneration', options)
    const shard = this.#served(timeline, number)
    if (revision < shard.revision) throw fail('stale', `revision ${shard.revision} is newer than ${revision}`)
    shard.revision = revision
    shard.status = { ...shard.status, imageGeneration: settings }
  }

  async controlState(
    timeline: TimelineRef,
    { number }: ShardRef,
    lsn: Lsn,
    options?: CallOptions,
  ): Promise<ControlState> {
    await this.reach('controlState', options)
    this.#served(timeline, number)
    throw fail('not_found', `shard has no control state at ${formatLsn(lsn)}`)
  }

  /** It has none. */
  async *streamFiles(
    timeline: TimelineRef,
    { number }: ShardRef,
    _lsn: Lsn,
    _after: Uint8Array,
    options?: CallOptions,
  ): AsyncGenerator<StreamFilesResponse, void, void> {
    await this.reach('streamFiles', options)
    this.#served(timeline, number)
    yield { piece: undefined, pagesTotal: 0n, place: Buffer.alloc(0) }
  }

  #served(timeline: TimelineRef, number: number): Served {
    const shard = this.#shards.get(nameOf(timeline, number))
    if (shard !== undefined) return shard
    throw fail('unknown_timeline', `shard ${number} of timeline ${timeline.timelineId} is not here`)
  }
}

const nameOf = ({ timelineId }: TimelineRef, number: number): string => `${timelineId}/${number}`
