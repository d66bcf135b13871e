/**
 * What reading needs of a layer, in memory or in a file. Nothing of a file's index need be in memory: a method that
 * lacks a block answers with what is `Missing`, and is asked again once that is loaded. So a read whose blocks are at
 * hand takes no turn of the event loop.
 */
import type { Lsn } from '@understory/base'
import type { Key } from '../key/key.ts'
import type { BlockTable, Sized } from './block-cache.ts'

/** One value of a layer. */
export interface ValueRef {
  readonly layer: Layer
  readonly lsn: Lsn
  readonly meta: number
  readonly blockIndex: number
  readonly lengthBytes: number
  /** The value's bytes if they are at hand; they stay as they are. */
  bytes(): Uint8Array | undefined
  /** The value's bytes, read if need be. Errors: `bad_file` where the layer is damaged. */
  load(): Promise<Uint8Array>
}

/** A block that a read cannot do without. */
export class Missing {
  /** Errors: `bad_file` where the layer is damaged; what its source says. */
  readonly load: (held: HeldBlocks) => Promise<void>

  constructor(load: (held: HeldBlocks) => Promise<void>) {
    this.load = load
  }
}

/** Blocks that one read has loaded: they are at hand for it even where the cache has dropped them. */
export class HeldBlocks {
  readonly #tables = new Map<BlockTable<Sized>, Map<number, Sized>>()

  get(table: BlockTable<Sized>, at: number): Sized | undefined {
    return this.#tables.get(table)?.get(at)
  }
  put(table: BlockTable<Sized>, at: number, block: Sized): void {
    const blocks = this.#tables.get(table)
    if (blocks === undefined) this.#tables.set(table, new Map([[at, block]]))
    else blocks.set(at, block)
  }
}

/** Does `attempt` until it misses nothing any more; at once where it misses nothing. */
export function withBlocks<T>(attempt: (held: HeldBlocks | undefined) => T | Missing): T | Promise<T> {
  const first = attempt(undefined)
  return first instanceof Missing ? loadAndTry(attempt, first) : first
}
async function loadAndTry<T>(attempt: (held: HeldBlocks) => T | Missing, first: Missing): Promise<T> {
  const held = new HeldBlocks()
  for (let found: T | Missing = first; ; found = attempt(held)) {
    if (!(found instanceof Missing)) return found
    await found.load(held)
  }
}

/** A key's chain as of its last value in a run. */
export interface RunChain {
  /** Records since its last value that ends a chain, or since the layer began; 255: so many or more. */
  readonly chain: number
  /** Whether one of its values in the layer ends a chain. */
  readonly isWhole: boolean
}

/** Some keys of a layer with what each of them is, in key order. */
export interface KeyRun {
  readonly length: number
  keyAt(index: number): Key
  /** The newest value of the key at `index` in this run at or before `at`. */
  newestAt(index: number, at: Lsn): ValueRef | undefined
  /** The values of the key at `index` in this run, oldest first. */
  valuesAt(index: number): Iterable<ValueRef>
  /** Undefined where the layer does not say. */
  chainAt(index: number): RunChain | undefined
}

/**
 * The keys of a layer within a range, run by run. A key whose values are in several runs, which then follow each other,
 * has its older values first.
 */
export interface KeyRuns {
  /** Undefined after the last. */
  next(): KeyRun | undefined | Promise<KeyRun | undefined>
}

export interface Layer {
  readonly lsnMin: Lsn | undefined
  readonly lsnMax: Lsn | undefined
  /** Its first and last key; undefined while it may get others. */
  readonly keyFirst: Key | undefined
  readonly keyLast: Key | undefined
  /**
   * Appends to `found` the key's values from `at` down to `floor`, the newest first, up to and with one that ends its
   * chain. Returns whether the search ends in this layer: by such a value, or by one below `floor`.
   */
  gather(key: Key, at: Lsn, floor: Lsn, found: ValueRef[], held: HeldBlocks | undefined): boolean | Missing
  /** The key's newest value at or before `at`. */
  newest(key: Key, at: Lsn, held: HeldBlocks | undefined): ValueRef | undefined | Missing
  /** The keys within [first, last], for scans: runs whose keys overlap are given side by side. */
  runsWithin(first: Key, last: Key): Iterable<KeyRuns>
}
