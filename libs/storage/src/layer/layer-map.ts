/**
 * The layers of a shard, oldest first, and the search through them.
 *
 * Rule on which reading rests: of one key, every value in a newer layer is at least as new as every value in an older
 * one. Ingest keeps it by order, late images by being refused where the key has newer values in an older layer.
 */
import { LSN_MAX } from '@understory/base'
import type { Lsn } from '@understory/base'
import { Barriers } from './barriers.ts'
import { KEY_BARRIER, compareKeys } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import type { Layer } from './layer.ts'
import { ScanHeads } from './scan-heads.ts'
import { endsChain, isTombstone } from './value.ts'

/** One value of a plan. */
export interface ValueRef {
  readonly layer: Layer
  readonly value: number
}

/** Given by a scan between two keys: nothing of it is held on to, others may work. */
export const PAUSE: unique symbol = Symbol('pause')
/** Steps between two pauses of a scan: about a millisecond. */
const PAUSE_STEPS = 1024

/** What a key at an LSN is made of. */
export interface ReadPlan {
  readonly key: Key
  /** The value to begin with: an image, or a record that makes the page; undefined: zeros, nothing was ever written. */
  readonly base: ValueRef | undefined
  /** Records on top of it, oldest first. */
  readonly records: readonly ValueRef[]
}

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

  /** The key's newest value at or before `at`, tombstones too; undefined if there is none above its barrier. */
  newest(key: Key, at: Lsn): ValueRef | undefined {
    const floor = this.barriers.newest(key, at)
    for (let i = this.#layers.length - 1; i >= 0; i--) {
      const layer = this.#layers[i] as Layer
      const value = layer.newest(key, at)
      if (value >= 0) return layer.lsnOf(value) >= floor ? { layer, value } : undefined
    }
    return undefined
  }

  /** Undefined where the key does not exist at `at`: never written, under a barrier, or ended by a tombstone. */
  plan(key: Key, at: Lsn): ReadPlan | undefined {
    const floor = this.barriers.newest(key, at)
    const records: ValueRef[] = []
    for (let i = this.#layers.length - 1; i >= 0; i--) {
      const layer = this.#layers[i] as Layer
      for (let value = layer.newest(key, at); value >= 0; value = layer.older(value)) {
        if (layer.lsnOf(value) < floor) return found(key, undefined, records)
        const meta = layer.metaOf(value)
        if (endsChain(meta))
          return isTombstone(meta) ? found(key, undefined, records) : found(key, { layer, value }, records)
        records.push({ layer, value })
      }
    }
    return found(key, undefined, records)
  }

  /** The newest LSN at which the key has a value in a layer other than `except`; 0 where it has none. */
  newestLsnOutside(key: Key, except: Layer): Lsn {
    for (let i = this.#layers.length - 1; i >= 0; i--) {
      const layer = this.#layers[i] as Layer
      if (layer === except) continue
      const value = layer.newest(key, LSN_MAX)
      if (value >= 0) return layer.lsnOf(value)
    }
    return 0 as Lsn
  }

  /** Keys of [first, last] in order that exist at `at`, without a pause: for few. See `scanWithPauses`. */
  *scan(first: Key, last: Key, at: Lsn): Generator<Key, void, void> {
    for (const key of this.scanWithPauses(first, last, at)) if (key !== PAUSE) yield key
  }

  /**
   * Keys of [first, last] in order that exist at `at`: above their barriers, not ended. One merge over all layers, of
   * which each key costs the logarithm of their count; nothing is gathered. Some milliseconds apart it gives `PAUSE`:
   * then others may work, new values may come and layers may be added and replaced.
   */
  *scanWithPauses(first: Key, last: Key, at: Lsn): Generator<Key | typeof PAUSE, void, void> {
    const heads = new ScanHeads()
    for (const [age, layer] of this.#layers.entries()) {
      for (const run of layer.runsWithin(first, last)) {
        heads.add({ layer, age, run, next: 0, key: layer.keyOfEntry(run.at(0) as number) })
        if (run.length >= PAUSE_STEPS) yield PAUSE
      }
      if (age % PAUSE_STEPS === PAUSE_STEPS - 1) yield PAUSE
    }
    let steps = 0
    for (let head = heads.first; head !== undefined; head = heads.first) {
      const { key } = head
      let newest: ValueRef | undefined
      // The newest layer that has the key comes first.
      for (; head !== undefined && compareKeys(head.key, key) === 0; head = heads.first) {
        if (newest === undefined) {
          const value = head.layer.newestOfEntry(head.run.at(head.next) as number, at)
          if (value >= 0) newest = { layer: head.layer, value }
        }
        heads.advanceFirst()
        if (++steps % PAUSE_STEPS === 0) yield PAUSE
      }
      if (newest === undefined || isTombstone(newest.layer.metaOf(newest.value))) continue
      if (newest.layer.lsnOf(newest.value) >= this.barriers.newest(key, at)) yield key
    }
  }

  /** Fills `barriers` from the layers, once after loading. */
  async loadBarriers(): Promise<void> {
    const { first, last } = classRange(KEY_BARRIER)
    for (const layer of this.#layers) {
      for (const run of layer.runsWithin(first, last)) {
        for (let i = 0; i < run.length; i++) {
          const entry = run.at(i) as number
          const key = layer.keyOfEntry(entry)
          const newestFirst: number[] = []
          let value = layer.newestOfEntry(entry, LSN_MAX)
          for (; value >= 0; value = layer.older(value)) newestFirst.push(value)
          for (const each of newestFirst.reverse()) {
            const bytes = await layer.load(each)
            this.barriers.add(
              key,
              layer.lsnOf(each),
              new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true),
            )
          }
        }
      }
    }
  }
}

function found(key: Key, base: ValueRef | undefined, newestFirst: ValueRef[]): ReadPlan | undefined {
  if (base === undefined && newestFirst.length === 0) return undefined
  return { key, base, records: newestFirst.reverse() }
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
