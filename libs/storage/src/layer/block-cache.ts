/** Decompressed blocks of layers, the least recently used going first beyond a maximum of bytes. */
export class BlockCache {
  readonly #sizeBytesMax: number
  readonly #blocks = new Map<number, Uint8Array>()
  #sizeBytes = 0
  #lastOwner = 0

  constructor(sizeBytesMax: number) {
    this.#sizeBytesMax = sizeBytesMax
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  /** A number under which one layer keeps its blocks. */
  newOwner(): number {
    return ++this.#lastOwner
  }

  get(owner: number, block: number): Uint8Array | undefined {
    const name = owner * 0x100_0000 + block
    const found = this.#blocks.get(name)
    if (found === undefined) return undefined
    this.#blocks.delete(name)
    this.#blocks.set(name, found)
    return found
  }

  put(owner: number, block: number, bytes: Uint8Array): void {
    const name = owner * 0x100_0000 + block
    if (this.#blocks.has(name)) return
    this.#blocks.set(name, bytes)
    this.#sizeBytes += bytes.length
    for (const [oldest, { length }] of this.#blocks) {
      if (this.#sizeBytes <= this.#sizeBytesMax || oldest === name) break
      this.#blocks.delete(oldest)
      this.#sizeBytes -= length
    }
  }
}
