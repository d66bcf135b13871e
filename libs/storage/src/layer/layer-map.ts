/**
 * The layers of a shard, oldest first, and the search through them.
 *
 * Rule on which reading rests: of one key, every value in a newer layer is at least as new as every value in an older
 * one. Ingest keeps it by order, late images by being refused where the key has newer values in an older layer.
 */
import { LSN_MAX, LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import { KEY_BARRIER, compareKeys } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import { Barriers } from './barriers.ts'
import { Missing, withBlocks } from './layer.ts'
import type { HeldBlocks, Layer, ValueRef } from './layer.ts'
import { ScanHeads } from './scan-heads.ts'
import { endsChain, isTombstone } from './value.ts'

/** Steps of a scan between two pauses: about a millisecond. */
const PAUSE_STEPS = 1024

/** What a key at an LSN is made of. */
export interface ReadPlan {
  readonly key: Key
  /** The value to begin with: an image, or a record that makes the page; undefined: zeros, nothing was ever written. */
  readonly base: ValueRef | undefined
  /** Records on top of it, oldest first. */
  readonly records: readonly ValueRef[]
}

/** Lets others work; undefined where it is not needed yet. */
export type Pause = () => Promise<void> | undefined

export class LayerMap {
  /** Oldest first. */
  #layers: Layer[] = []
  readonly barriers = new Barriers()

  get layers(): readonly Layer[] {
    return this.#layers
  }
  /** As the newest. */
  push(layer: Layer): void {
    this.#layers = [...this.#layers, layer]
  }
  /** In the same place; `from` are neighbours. */
  replace(from: readonly Layer[], to: Layer): void {
    const at = this.#layers.indexOf(from[0] as Layer)
    this.#layers = [...this.#layers.slice(0, at), to, ...this.#layers.slice(at + from.length)]
  }

  /**
   * The key's newest value at or before `at`, tombstones too; undefined if there is none above its barrier. At once
   * where the blocks of the index are at hand.
   */
  newest(key: Key, at: Lsn): ValueRef | undefined | Promise<ValueRef | undefined> {
    return withBlocks((held) => this.#tryNewest(key, at, held))
  }
  #tryNewest(key: Key, at: Lsn, held: HeldBlocks | undefined): ValueRef | undefined | Missing {
    const floor = this.barriers.newest(key, at)
    for (let i = this.#layers.length - 1; i >= 0; i--) {
      const value = (this.#layers[i] as Layer).newest(key, at, held)
      if (value === undefined) continue
      return value instanceof Missing || value.lsn >= floor ? value : undefined
    }
    return undefined
  }

  /**
   * Undefined where the key does not exist at `at`: never written, under a barrier, or ended by a tombstone. At once
   * where the blocks of the index are at hand.
   */
  plan(key: Key, at: Lsn): ReadPlan | undefined | Promise<ReadPlan | undefined> {
    return withBlocks((held) => this.#tryPlan(key, at, held))
  }
  #tryPlan(key: Key, at: Lsn, held: HeldBlocks | undefined): ReadPlan | undefined | Missing {
    const floor = this.barriers.newest(key, at)
    const values: ValueRef[] = []
    let isOver = false
    for (let i = this.#layers.length - 1; i >= 0 && !isOver; i--) {
      const outcome = (this.#layers[i] as Layer).gather(key, at, floor, values, held)
      if (outcome instanceof Missing) return outcome
      isOver = outcome
    }
    const oldest = values.at(-1)
    if (oldest === undefined) return undefined
    const hasEnd = endsChain(oldest.meta)
    if (hasEnd) values.pop()
    const base = hasEnd && !isTombstone(oldest.meta) ? oldest : undefined
    return base === undefined && values.length === 0 ? undefined : { key, base, records: values.reverse() }
  }

  /**
   * Whether the key has a value newer than `lsn` in a layer other than `except`. Only layers that reach beyond `lsn`
   * are looked at.
   */
  hasNewer(key: Key, lsn: Lsn, except: Layer): boolean | Promise<boolean> {
    return withBlocks((held) => this.#tryHasNewer(key, lsn, except, held))
  }
  #tryHasNewer(key: Key, lsn: Lsn, except: Layer, held: HeldBlocks | undefined): boolean | Missing {
    for (const layer of this.#layers) {
      if (layer === except || (layer.lsnMax ?? LSN_ZERO) <= lsn) continue
      const value = layer.newest(key, LSN_MAX, held)
      if (value instanceof Missing) return value
      if (value !== undefined && value.lsn > lsn) return true
    }
    return false
  }

  /**
   * Keys of [first, last] in order that exist at `at`: above their barriers, not ended. One merge over all layers, of
   * which each key costs the logarithm of their count; nothing is gathered. `pause` is asked each millisecond or so:
   * then new values may come and layers may be added and replaced.
   */
  async *scan(first: Key, last: Key, at: Lsn, pause: Pause): AsyncGenerator<Key, void, void> {
    const heads = await this.#headsOf(first, last, pause)
    let steps = 0
    for (let head = heads.first; head !== undefined; head = heads.first) {
      const { key } = head
      let newest: ValueRef | undefined
      let newestAge = 0
      for (; head !== undefined && compareKeys(head.key, key) === 0; head = heads.first) {
        const value = head.run.newestAt(head.next, at)
        // The newest layer that has the key comes first; of one layer the older part of a key does.
        if (
          value !== undefined &&
          (newest === undefined || value.lsn >= newest.lsn + (head.age < newestAge ? 1 : 0))
        ) {
          newest = value
          newestAge = head.age
        }
        const advanced = heads.advanceFirst()
        if (advanced !== undefined) await advanced
        if (++steps % PAUSE_STEPS === 0) await pause()
      }
      if (newest !== undefined && !isTombstone(newest.meta) && newest.lsn >= this.barriers.newest(key, at))
        yield key
    }
  }
  async #headsOf(first: Key, last: Key, pause: Pause): Promise<ScanHeads> {
    const heads = new ScanHeads()
    let steps = 0
    for (const [age, layer] of this.#layers.entries()) {
      for (const runs of layer.runsWithin(first, last)) {
        const run = await runs.next()
        if (run !== undefined) heads.add({ age, runs, run, next: 0, key: run.keyAt(0) })
        steps += run?.length ?? 1
        if (steps < PAUSE_STEPS) continue
        steps = 0
        await pause()
      }
    }
    return heads
  }

  /** Fills `barriers` from the layers, once after loading. */
  async loadBarriers(): Promise<void> {
    const { first, last } = classRange(KEY_BARRIER)
    for (const layer of this.#layers)
      for (const runs of layer.runsWithin(first, last))
        for (let run = await runs.next(); run !== undefined; run = await runs.next())
          for (let i = 0; i < run.length; i++) await this.#addBarriers(run.keyAt(i), run.valuesAt(i))
  }
  async #addBarriers(key: Key, values: Iterable<ValueRef>): Promise<void> {
    for (const value of values) {
      const bytes = value.bytes() ?? (await value.load())
      this.barriers.add(key, value.lsn, new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true))
    }
  }
}

const MAX = 0xffff_ffff
/** From the first key to the last, both included. */
export interface KeyRange {
  readonly first: Key
  readonly last: Key
}
/** First and last key of a class, for `scan`. */
export const classRange = (keyClass: number): KeyRange => ({
  first: { keyClass, spcOid: 0, dbOid: 0, rel: 0, fork: 0, block: 0 },
  last: { keyClass, spcOid: MAX, dbOid: MAX, rel: MAX, fork: 255, block: MAX },
})
/** The same of a class within one database in one tablespace. */
export function databaseRange(keyClass: number, spcOid: number, dbOid: number): KeyRange {
  const { first, last } = classRange(keyClass)
  return { first: { ...first, spcOid, dbOid }, last: { ...last, spcOid, dbOid } }
}
