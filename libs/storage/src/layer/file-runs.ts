/** Values and runs of keys of a layer file, by its index blocks. */
import type { Lsn } from '@understory/base'
import type { Key } from '../key/key.ts'
import type { DataBlockPlace, IndexBlock } from './index-block.ts'
import { HeldBlocks, Missing } from './layer.ts'
import type { KeyRun, KeyRuns, Layer, RunChain, ValueRef } from './layer.ts'

export interface RunBlock {
  readonly number: number
  readonly block: IndexBlock
}

export class FileValue implements ValueRef {
  readonly layer: BlockSource
  readonly #block: IndexBlock
  readonly #value: number

  constructor(layer: BlockSource, block: IndexBlock, value: number) {
    this.layer = layer
    this.#block = block
    this.#value = value
  }
  get lsn(): Lsn {
    return this.#block.lsnOf(this.#value)
  }
  get meta(): number {
    return this.#block.metaOf(this.#value)
  }
  get blockIndex(): number {
    return this.#block.blockIndexOf(this.#value)
  }
  get lengthBytes(): number {
    return this.#block.lengthOf(this.#value)
  }
  /** Where its bytes lie: values of the layer with the same position share them. */
  get position(): number {
    return this.#block.placeOf(this.#value).offset * 2 ** 16 + this.#block.offsetOf(this.#value)
  }
  bytes(): Uint8Array | undefined {
    const { lengthBytes } = this
    if (lengthBytes === 0) return EMPTY
    return this.layer.bytesAt(
      this.#block.placeOf(this.#value),
      this.#block.offsetOf(this.#value),
      lengthBytes,
    )
  }
  load(): Promise<Uint8Array> {
    const { lengthBytes } = this
    if (lengthBytes === 0) return Promise.resolve(EMPTY)
    return this.layer.loadAt(this.#block.placeOf(this.#value), this.#block.offsetOf(this.#value), lengthBytes)
  }
}

const EMPTY = new Uint8Array(0)

/** The part of a layer file that runs and values need. */
export interface BlockSource extends Layer {
  /** Bytes of a data block, if it is at hand. */
  bytesAt(place: DataBlockPlace, offset: number, length: number): Uint8Array | undefined
  loadAt(place: DataBlockPlace, offset: number, length: number): Promise<Uint8Array>
  /** Index block `number`, or the first that may have keys from `first` on; undefined after the last. */
  runBlock(
    first: Key,
    number: number | undefined,
    held: HeldBlocks | undefined,
  ): RunBlock | undefined | Missing
}

/** One index block after the other. */
export class FileRuns implements KeyRuns {
  readonly #layer: BlockSource
  readonly #first: Key
  readonly #last: Key
  #number: number | undefined
  #isOver = false

  constructor(layer: BlockSource, first: Key, last: Key) {
    this.#layer = layer
    this.#first = first
    this.#last = last
  }

  next(): KeyRun | undefined | Promise<KeyRun | undefined> {
    if (this.#isOver) return undefined
    const found = this.#layer.runBlock(this.#first, this.#number, undefined)
    return found instanceof Missing ? this.#load(found) : this.#take(found)
  }
  async #load(missing: Missing): Promise<KeyRun | undefined> {
    const held = new HeldBlocks()
    let found: RunBlock | undefined | Missing = missing
    for (; found instanceof Missing; found = this.#layer.runBlock(this.#first, this.#number, held))
      await found.load(held)
    return this.#take(found)
  }
  #take(found: RunBlock | undefined): KeyRun | undefined | Promise<KeyRun | undefined> {
    if (found === undefined) return undefined
    const { number, block } = found
    this.#number = number + 1
    const from = block.entriesBefore(this.#first, false)
    const to = block.entriesBefore(this.#last, true)
    this.#isOver = to < block.keyCount
    // The block before the one that begins at the first key may end before it.
    return to > from ? new FileRun(this.#layer, block, from, to - from) : this.next()
  }
}

class FileRun implements KeyRun {
  readonly length: number
  readonly #layer: BlockSource
  readonly #block: IndexBlock
  readonly #from: number

  constructor(layer: BlockSource, block: IndexBlock, from: number, length: number) {
    this.#layer = layer
    this.#block = block
    this.#from = from
    this.length = length
  }
  keyAt(index: number): Key {
    return this.#block.keyOf(this.#from + index)
  }
  newestAt(index: number, at: Lsn): ValueRef | undefined {
    const value = this.#block.newestOf(this.#from + index, at)
    return value < 0 ? undefined : new FileValue(this.#layer, this.#block, value)
  }
  *valuesAt(index: number): Iterable<ValueRef> {
    const end = this.#block.firstValueOf(this.#from + index + 1)
    for (let value = this.#block.firstValueOf(this.#from + index); value < end; value++)
      yield new FileValue(this.#layer, this.#block, value)
  }
  chainAt(index: number): RunChain | undefined {
    const entry = this.#from + index
    return this.#block.hasChains
      ? { chain: this.#block.chainOf(entry), isWhole: this.#block.isWhole(entry) }
      : undefined
  }
}
