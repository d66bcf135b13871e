/**
 * The layers of a shard, oldest first, and the search through them.
 *
 * Rule on which reading rests: of one key, every value in a newer layer is at least as new as every value in an older
 * one. Ingest keeps it by order, late images by being refused where the key has newer values in an older layer.
 */
import { LSN_MAX } from '@understory/base'
import type { Lsn } from '@understory/base'
import { Barriers } from './barriers.ts'
import { KEY_BARRIER, compareKeys } from './key.ts'
import type { Key } from './key.ts'
import type { Layer } from './layer.ts'
import { endsChain, isTombstone } from './value.ts'

/** One value of a plan. */
export interface ValueRef {
  readonly layer: Layer
  readonly value: number
}

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

  /**
   * Keys of [first, last] in order that exist at `at`: above their barriers, not ended. One pass over all layers.
   * The map must not lose layers meanwhile; new values may come.
   */
  *scan(first: Key, last: Key, at: Lsn): Generator<Key, void, void> {
    const heads = this.#layers.map((layer) => ({
      layer,
      entries: layer.sortedEntries(),
      next: 0,
      key: first,
    }))
    const active = heads.filter((head) => advanceTo(head, first, last))
    while (active.length > 0) {
      let smallest = active[0]!.key
      for (let i = 1; i < active.length; i++) {
        if (compareKeys(active[i]!.key, smallest) < 0) smallest = active[i]!.key
      }
      let newest: ValueRef | undefined
      // Layers stand oldest first, so the last one that has a value at or before `at` has the newest.
      for (let i = 0; i < active.length; i++) {
        const head = active[i]!
        if (compareKeys(head.key, smallest) !== 0) continue
        const value = head.layer.newestOfEntry(head.entries[head.next] as number, at)
        if (value >= 0) newest = { layer: head.layer, value }
        head.next++
      }
      for (let i = active.length - 1; i >= 0; i--) if (!readHead(active[i]!, last)) active.splice(i, 1)
      if (newest === undefined || isTombstone(newest.layer.metaOf(newest.value))) continue
      if (newest.layer.lsnOf(newest.value) >= this.barriers.newest(smallest, at)) yield smallest
    }
  }

  /** Fills `barriers` from the layers, once after loading. */
  async loadBarriers(): Promise<void> {
    const { first, last } = classRange(KEY_BARRIER)
    for (const layer of this.#layers) {
      const head: ScanHead = { layer, entries: layer.sortedEntries(), next: 0, key: first }
      for (let isFound = advanceTo(head, first, last); isFound; isFound = readHead(head, last)) {
        const newestFirst: number[] = []
        let value = layer.newestOfEntry(head.entries[head.next] as number, LSN_MAX)
        for (; value >= 0; value = layer.older(value)) newestFirst.push(value)
        for (const each of newestFirst.reverse()) {
          const bytes = await layer.load(each)
          this.barriers.add(
            head.key,
            layer.lsnOf(each),
            new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true),
          )
        }
        head.next++
      }
    }
  }
}

interface ScanHead {
  readonly layer: Layer
  readonly entries: Uint32Array
  next: number
  key: Key
}

/** Skips entries before `first`; false if none is left up to `last`. */
function advanceTo(head: ScanHead, first: Key, last: Key): boolean {
  let low = 0
  let high = head.entries.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (compareKeys(head.layer.keyOfEntry(head.entries[middle] as number), first) < 0) low = middle + 1
    else high = middle
  }
  head.next = low
  return readHead(head, last)
}
function readHead(head: ScanHead, last: Key): boolean {
  if (head.next >= head.entries.length) return false
  head.key = head.layer.keyOfEntry(head.entries[head.next] as number)
  return compareKeys(head.key, last) <= 0
}

function found(key: Key, base: ValueRef | undefined, newestFirst: ValueRef[]): ReadPlan | undefined {
  if (base === undefined && newestFirst.length === 0) return undefined
  return { key, base, records: newestFirst.reverse() }
}

const MAX = 0xffff_ffff
/** First and last key of a class, for `scan`. */
export const classRange = (keyClass: number): { readonly first: Key; readonly last: Key } => ({
  first: { keyClass, spcOid: 0, dbOid: 0, rel: 0, fork: 0, block: 0 },
  last: { keyClass, spcOid: MAX, dbOid: MAX, rel: MAX, fork: 255, block: MAX },
})
