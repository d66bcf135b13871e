/** Owns the choice of the index that an attached shard starts from: the published one, the local one, or a new one. */
import { LSN_ZERO, assert, formatLsn, fail } from '@understory/base'
import type { Log } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { ImageGenerationSettings, IndexPart, LayerOwner } from '@understory/storage'
import { staleGeneration } from '../layers/remote-index.ts'
import type { RemoteIndex } from '../layers/remote-index.ts'
import { rollBack } from './rollback.ts'
import type { Rollback } from './rollback.ts'

export interface AttachRequest {
  readonly owner: LayerOwner
  readonly generation: number
  readonly create: boolean
  readonly safekeepers: readonly string[]
  readonly postgres: PostgresIdentity
  readonly imageGeneration: ImageGenerationSettings
  readonly rollback?: Rollback | undefined
}

/** A shard that is here under an older generation. */
export interface ShardHere {
  readonly generation: number
  readonly index: IndexPart
  readonly hasFailed: boolean
}

export class StartingIndex {
  readonly #request: AttachRequest
  readonly #remote: RemoteIndex
  readonly #log: Log
  #published: IndexPart | undefined
  #isRead = false

  constructor(request: AttachRequest, remote: RemoteIndex, log: Log) {
    this.#request = request
    this.#remote = remote
    this.#log = log
  }

  /**
   * Whether the shard here must be loaded again. A new generation is a new chance for a shard that has stopped. Where
   * more is published than is here, what is published counts: WAL that only its layers hold may be gone from the
   * safekeepers. And a shard that has WAL which was discarded is of the past.
   */
  async replaces(here: ShardHere): Promise<boolean> {
    if (here.hasFailed || this.#isVoid(here.generation)) return true
    const newest = await this.#remote.newestGeneration()
    if (newest === undefined || newest < here.generation) return false
    if (newest > here.generation) return true
    return (await this.#remote.read(newest)).consistentLsn > here.index.consistentLsn
  }

  /**
   * Returns the published index, or undefined; from then on what it lists is this generation's. Where WAL was
   * discarded, the part that stays takes its place: a reader of the store finds nothing else, and local files of
   * before are of the past. Error: `stale`.
   */
  async readPublished(): Promise<IndexPart | undefined> {
    const { rollback, generation } = this.#request
    const isRolledBack = (part: IndexPart): boolean =>
      part.generation < generation && this.#isVoid(part.generation)
    const change = (part: IndexPart): IndexPart =>
      rollback !== undefined && isRolledBack(part) ? rollBack(part, rollback.lsn) : part
    const published = await this.#remote.takeOver(generation, change)
    this.#isRead = true
    this.#published = published
    if (published === undefined || rollback === undefined || !isRolledBack(published)) return published
    const kept = { ...change(published), generation }
    this.#published = kept
    this.#reportRollback(rollback, published, kept)
    return kept
  }
  #reportRollback(rollback: Rollback, published: IndexPart, kept: IndexPart): void {
    const { owner } = this.#request
    this.#log.warn('shard_rolled_back', {
      tenant: owner.tenantId,
      timeline: owner.timelineId,
      shard: owner.shard.number,
      to: formatLsn(rollback.lsn),
      from: formatLsn(published.consistentLsn),
      layersGone: published.layers.length - kept.layers.length,
    })
  }

  /**
   * After `readPublished`: the furthest of the newest generation. Where a local file is damaged, what is published: the
   * WAL of the layers that are only here comes again from the safekeepers. Errors: `stale`; `not_found` where there is
   * no index and none may be made.
   */
  choose(local: IndexPart | undefined, isDamaged: boolean): IndexPart {
    assert(this.#isRead, () => 'an index is chosen after the published one was read')
    const { generation, rollback } = this.#request
    if (local !== undefined && local.generation > generation)
      throw staleGeneration(generation, local.generation)
    const known = local !== undefined && this.#isCurrent(local, isDamaged) ? local : this.#published
    if (known === undefined) return this.#make()
    if (rollback !== undefined && this.#isVoid(known.generation))
      return { ...rollBack(known, rollback.lsn), generation }
    return { ...known, generation }
  }

  /**
   * False where another node published under a newer generation than the local files have, or a disk was put back to an
   * older state: they are of the past.
   */
  #isCurrent(local: IndexPart, isDamaged: boolean): boolean {
    const published = this.#published
    if (published === undefined) return true
    if (isDamaged) return false
    if (local.generation !== published.generation) return local.generation > published.generation
    return local.consistentLsn >= published.consistentLsn
  }

  #make(): IndexPart {
    const { owner, generation, postgres, imageGeneration, create } = this.#request
    if (!create) {
      throw fail(
        'not_found',
        `shard ${owner.shard.number} of timeline ${owner.timelineId} is neither here nor in the object store`,
        {
          hint: 'If it never had data, attach it with create set.',
        },
      )
    }
    return {
      owner,
      generation,
      postgres,
      imageGeneration,
      startLsn: LSN_ZERO,
      readableLsn: LSN_ZERO,
      consistentLsn: LSN_ZERO,
      nextSequence: 0,
      layers: [],
    }
  }

  /** Whether an index of the generation may list what was made of WAL that was discarded. */
  #isVoid(generation: number): boolean {
    const { rollback } = this.#request
    return rollback !== undefined && generation < rollback.beforeGeneration
  }
}
