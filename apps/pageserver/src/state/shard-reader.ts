/**
 * The read side of a shard: values and pages as of an LSN, from its layers. Reads run beside the writers of the shard,
 * at LSNs that are complete; there is one way to read a page, measured or not.
 */
import type { Lsn } from '@understory/base'
import { PAGE_SIZE } from '@understory/postgres/page'
import type { Page } from '@understory/postgres/page'
import type { RedoSettings } from '@understory/postgres/redo'
import {
  KEY_REPLICATION_ORIGIN,
  LayerMap,
  applyValue,
  classRange,
  decodeOriginProgress,
  homeShard,
  isTombstone,
  relationSizeKey,
} from '@understory/storage'
import type { Key, KeyRange, LayerOwner, RebuildOutcome, ValueRef } from '@understory/storage'
import { loopTurns } from './loop-turns.ts'
import { ReadsUnderWay } from './reads-under-way.ts'
import { SettingsHistory } from './settings-history.ts'
import type { PageProbe } from '../telemetry/pageserver-observer.ts'

export const newPage = (): Page => {
  const buffer = new ArrayBuffer(PAGE_SIZE)
  return { bytes: new Uint8Array(buffer), view: new DataView(buffer) }
}

export class ShardReader {
  readonly owner: LayerOwner
  readonly map = new LayerMap()
  readonly reads = new ReadsUnderWay()
  protected readonly history = new SettingsHistory()

  constructor(owner: LayerOwner) {
    this.owner = owner
  }

  get isFirstShard(): boolean {
    return this.owner.shard.number === 0
  }
  isHomeOf(rel: number): boolean {
    return homeShard(this.owner.shard, rel) === this.owner.shard.number
  }

  get settings(): RedoSettings {
    return this.history.now
  }
  settingsAt(at: Lsn): RedoSettings {
    return this.history.at(at)
  }
  /** Whether every value from `at` on is redone with the settings of now. */
  hasSettingsOfNowSince(at: Lsn): boolean {
    return this.settingsAt(at) === this.settings
  }

  /** The content of a key that is not a page, or undefined. */
  readBytes(key: Key, at: Lsn): Promise<Uint8Array | undefined> {
    return this.reads.during(async () => {
      const newest = await this.map.newest(key, at)
      return newest === undefined || isTombstone(newest.meta)
        ? undefined
        : (newest.bytes() ?? (await newest.load()))
    })
  }
  /** Blocks of the fork that the key is of; undefined where it does not exist. */
  async readSize(key: Key, at: Lsn): Promise<number | undefined> {
    const bytes = await this.readBytes(relationSizeKey(key.spcOid, key.dbOid, key.rel, key.fork), at)
    return bytes === undefined
      ? undefined
      : new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true)
  }
  /** Remote LSN by replication origin. */
  async originsAt(at: Lsn): Promise<Map<number, bigint>> {
    const origins = new Map<number, bigint>()
    for await (const key of this.scan(classRange(KEY_REPLICATION_ORIGIN), at)) {
      const progress = await this.readBytes(key, at)
      if (progress !== undefined) origins.set(key.rel, decodeOriginProgress(progress))
    }
    return origins
  }

  /**
   * Fills `page`, which must be zeros, with the page as of `at`: all bytes first, then redo, so that each can be timed.
   * `none`: nothing was written above its barrier.
   */
  readPage(key: Key, at: Lsn, page: Page, probe?: PageProbe): Promise<RebuildOutcome | 'none'> {
    return this.reads.during(() => this.#readPage(key, at, page, probe))
  }
  async #readPage(
    key: Key,
    at: Lsn,
    page: Page,
    probe: PageProbe | undefined,
  ): Promise<RebuildOutcome | 'none'> {
    const planned = this.map.plan(key, at)
    const plan = planned instanceof Promise ? await planned : planned
    if (plan === undefined) return 'none'
    probe?.planned(plan)
    const { base, records } = plan
    const refs = base === undefined ? records : [base, ...records]
    const values: Uint8Array[] = []
    for (const ref of refs) values.push(ref.bytes() ?? (await ref.load()))
    probe?.loaded()
    let outcome: RebuildOutcome = 'made'
    for (const [i, ref] of refs.entries()) outcome = this.#apply(key, ref, values[i] as Uint8Array, page)
    probe?.applied()
    return outcome
  }
  #apply(key: Key, ref: ValueRef, bytes: Uint8Array, page: Page): RebuildOutcome {
    const { lsn, meta, blockIndex } = ref
    return applyValue(key, { lsn, meta, blockIndex, bytes }, page, this.settingsAt(lsn))
  }

  /** The keys of [first, last] that exist at `at`, in order. The event loop gets its turns in between. */
  async *scan({ first, last }: KeyRange, at: Lsn): AsyncGenerator<Key, void, void> {
    const end = this.reads.begin()
    try {
      yield* this.map.scan(first, last, at, () => (loopTurns.isOver ? loopTurns.next() : undefined))
    } finally {
      end()
    }
  }
}
