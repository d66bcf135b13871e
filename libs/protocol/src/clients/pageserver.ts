/** Calls to one pageserver, in terms of the domain. Pages have a client of their own (page-client.ts). */
import { lsnFromBigint, lsnToBigint } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { PageserverServiceClient, callServerStream, callUnary, createClient } from '@understory/rpc'
import type {
  CallOptions,
  ClientContext,
  ShardRef,
  ShardStatus,
  StreamFilesResponse,
  TimelineRef,
} from '@understory/rpc'
import type { ImageGenerationSettings } from '@understory/storage'

export interface ShardToAttach {
  readonly timeline: TimelineRef
  readonly shard: ShardRef
  readonly generation: number
  readonly postgres: PostgresIdentity
  /** There is nothing of it in the object store yet: an import follows. */
  readonly create: boolean
  /** host:port of each. */
  readonly safekeepers: readonly string[]
  readonly imageGeneration: ImageGenerationSettings
  /** Where WAL was abandoned: what a shard of an older generation made of it goes. */
  readonly rollback: { readonly lsn: Lsn; readonly beforeGeneration: number } | undefined
}

/** The parts of a forged checkpoint, as docs/formats.md has it. */
export interface ControlState {
  readonly lsn: Lsn
  readonly tracker: Uint8Array
  readonly controlFile: Uint8Array
}

/** Errors of all calls: those of the pageserver, `unavailable`, `timeout` and `cancelled`. */
export interface PageserverClient {
  /**
   * Of all shards of a timeline that the pageserver serves. The message itself: it is counters, for people and metrics.
   */
  shards(timeline: TimelineRef, options?: CallOptions): Promise<readonly ShardStatus[]>
  /** Idempotent. Resolves to where ingest continues; 0 while an import is awaited. */
  attachShard(shard: ShardToAttach, options?: CallOptions): Promise<Lsn>
  /** Idempotent. */
  detachShard(timeline: TimelineRef, shard: ShardRef, options?: CallOptions): Promise<void>
  /** Durable when it resolves. A `revision` lower than one that the shard knows is refused. */
  setImageGeneration(
    timeline: TimelineRef,
    shard: ShardRef,
    settings: ImageGenerationSettings,
    revision: number,
    options?: CallOptions,
  ): Promise<void>
  /** Of shard 0. */
  controlState(timeline: TimelineRef, shard: ShardRef, lsn: Lsn, options?: CallOptions): Promise<ControlState>
  /**
   * The shard's part of the data directory, piece by piece: the message itself, whose pieces have kinds. `after` is a
   * place that an earlier stream of the shard at the same LSN gave; empty = from the beginning.
   */
  streamFiles(
    timeline: TimelineRef,
    shard: ShardRef,
    lsn: Lsn,
    after: Uint8Array,
    options?: CallOptions,
  ): AsyncGenerator<StreamFilesResponse, void, void>
  close(): void
}

export const pageserverClient = (rpc: ClientContext, address: string): PageserverClient =>
  new GrpcPageserver(createClient(rpc, PageserverServiceClient, address), `pageserver ${address}`)

class GrpcPageserver implements PageserverClient {
  readonly #client: PageserverServiceClient
  readonly #peer: string

  constructor(client: PageserverServiceClient, peer: string) {
    this.#client = client
    this.#peer = peer
  }

  async shards(timeline: TimelineRef, options?: CallOptions): Promise<readonly ShardStatus[]> {
    const get = this.#client.getShardStatus.bind(this.#client)
    return (await callUnary(get, { timeline }, this.#with(options))).shards
  }

  async attachShard(shard: ShardToAttach, options?: CallOptions): Promise<Lsn> {
    const { rollback } = shard
    const request = {
      ...shard,
      generation: BigInt(shard.generation),
      rollback:
        rollback === undefined
          ? undefined
          : { lsn: lsnToBigint(rollback.lsn), beforeGeneration: BigInt(rollback.beforeGeneration) },
    }
    const attach = this.#client.attachShard.bind(this.#client)
    return lsnFromBigint((await callUnary(attach, request, this.#with(options))).ingestedLsn)
  }

  async detachShard(timeline: TimelineRef, shard: ShardRef, options?: CallOptions): Promise<void> {
    await callUnary(this.#client.detachShard.bind(this.#client), { timeline, shard }, this.#with(options))
  }

  async setImageGeneration(
    timeline: TimelineRef,
    shard: ShardRef,
    settings: ImageGenerationSettings,
    revision: number,
    options?: CallOptions,
  ): Promise<void> {
    const request = { timeline, shard, imageGeneration: settings, generation: BigInt(revision) }
    await callUnary(this.#client.setImageGeneration.bind(this.#client), request, this.#with(options))
  }

  async controlState(
    timeline: TimelineRef,
    shard: ShardRef,
    lsn: Lsn,
    options?: CallOptions,
  ): Promise<ControlState> {
    const get = this.#client.getControlState.bind(this.#client)
    const state = await callUnary(get, { timeline, shard, lsn: lsnToBigint(lsn) }, this.#with(options))
    return { lsn: lsnFromBigint(state.lsn), tracker: state.tracker, controlFile: state.controlFile }
  }

  streamFiles(
    timeline: TimelineRef,
    shard: ShardRef,
    lsn: Lsn,
    after: Uint8Array,
    options?: CallOptions,
  ): AsyncGenerator<StreamFilesResponse, void, void> {
    const request = { timeline, shard, lsn: lsnToBigint(lsn), after: Buffer.from(after) }
    return callServerStream(this.#client.streamFiles.bind(this.#client), request, this.#with(options))
  }

  close(): void {
    this.#client.close()
  }

  #with(options: CallOptions | undefined): CallOptions {
    return { peer: this.#peer, ...options }
  }
}
