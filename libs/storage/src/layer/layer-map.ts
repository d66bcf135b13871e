/**
 * The layers of a shard, oldest first, and the search through them. Neighbours whose keys lie behind each other are one
 * *level*: of it a search looks into one layer.
 *
 * Rule on which reading rests: of one key, every value in a newer layer is at least as new as every value in an older
 * one. Ingest keeps it by order, late images by being refused where the key has newer values in an older layer.
 */
import { LSN_MAX, LSN_ZERO, assert, fail, formatLsn } from '@understory/base'
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
  #layers: readonly Layer[] = []
  #levels: readonly (readonly Layer[])[] = []
  #readableLsn = LSN_ZERO
  readonly barriers = new Barriers()

  get layers(): readonly Layer[] {
    return this.#layers
  }
  /** The same, the oldest first; within a level in the order of their keys. */
  get levels(): readonly (readonly Layer[])[] {
    return this.#levels
  }
  /** Below it searches are refused: what they would need may be gone. */
  get readableLsn(): Lsn {
    return this.#readableLsn
  }
  /** As the newest. */
  push(layer: Layer): void {
    this.#set([...this.#layers, layer])
  }
  /**
   * In the same place; `from` are neighbours, oldest first, and `to` have all that a search at or above `readableLsn`
   * finds in them.
   */
  replace(from: readonly Layer[], to: readonly Layer[], readableLsn = LSN_ZERO): void {
    const at = this.#layers.indexOf(from[0] as Layer)
    for (const [i, layer] of from.entries())
      assert(at >= 0 && this.#layers[at + i] === layer, () => 'the layers to replace are not neighbours')
    this.#set([...this.#layers.slice(0, at), ...to, ...this.#layers.slice(at + from.length)])
    if (readableLsn > this.#readableLsn) this.#readableLsn = readableLsn
  }
  #set(layers: readonly Layer[]): void {
    this.#layers = layers
    this.#levels = levelsOf(layers)
  }
  #mustBeReadable(at: Lsn): void {
    if (at >= this.#readableLsn) return
    const begin = formatLsn(this.#readableLsn)
    throw fail(
      'out_of_range',
      `lsn ${formatLsn(at)} is before ${begin}, where the history of the shard begins`,
    )
  }

  /**
   * The key's newest value at or before `at`, tombstones too; undefined if there is none above its barrier. At once
   * where the blocks of the index are at hand.
   */
  newest(key: Key, at: Lsn): ValueRef | undefined | Promise<ValueRef | undefined> {
    return withBlocks((held) => this.#tryNewest(key, at, held))
  }
  #tryNewest(key: Key, at: Lsn, held: HeldBlocks | undefined): ValueRef | undefined | Missing {
    this.#mustBeReadable(at)
    const floor = this.barriers.newest(key, at)
    for (let i = this.#levels.length - 1; i >= 0; i--) {
      const value = layerOf(this.#levels[i] as readonly Layer[], key).newest(key, at, held)
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
    this.#mustBeReadable(at)
    const floor = this.barriers.newest(key, at)
    const values: ValueRef[] = []
    let isOver = false
    for (let i = this.#levels.length - 1; i >= 0 && !isOver; i--) {
      const layer = layerOf(this.#levels[i] as readonly Layer[], key)
      const outcome = layer.gather(key, at, floor, values, held)
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
    for (const level of this.#levels) {
      const layer = layerOf(level, key)
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
    this.#mustBeReadable(at)
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
    for (const layer of this.#layers) await addBarriers(this.barriers, layer)
  }
}

/** Neighbours that lie behind each other, as far as it goes: any order of theirs reads the same. */
function levelsOf(layers: readonly Layer[]): Layer[][] {
  const levels: Layer[][] = []
  for (const layer of layers) {
    const level = levels.at(-1)
    const end = level?.at(-1)?.keyLast
    const { keyFirst } = layer
    if (level !== undefined && end !== undefined && keyFirst !== undefined && compareKeys(end, keyFirst) < 0)
      level.push(layer)
    else levels.push([layer])
  }
  return levels
}

/** The one that may have the key: the last that does not begin behind it. */
function layerOf(level: readonly Layer[], key: Key): Layer {
  let low = 1
  let high = level.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (compareKeys((level[middle] as Layer).keyFirst as Key, key) <= 0) low = middle + 1
    else high = middle
  }
  return level[low - 1] as Layer
}

/** Adds those that the layer has; layers come oldest first. */
export async function addBarriers(barriers: Barriers, layer: Layer): Promise<void> {
  const { first, last } = classRange(KEY_BARRIER)
  for (const runs of layer.runsWithin(first, last)) {
    for (let run = await runs.next(); run !== undefined; run = await runs.next()) {
      for (let i = 0; i < run.length; i++) {
        for (const value of run.valuesAt(i)) {
          const bytes = value.bytes() ?? (await value.load())
          barriers.add(
            run.keyAt(i),
            value.lsn,
            new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true),
          )
        }
      }
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
