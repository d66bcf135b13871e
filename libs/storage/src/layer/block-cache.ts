/**
 * Blocks of layers in memory, decompressed and checked, within one budget of bytes for all layers of a process. What
 * leaves first is what was not used since the hand of the clock passed it last (second chance): a hit costs one write.
 */

/** Weighs what it keeps in memory. */
export interface Sized {
  readonly sizeBytes: number
}

/** What a block costs beyond its bytes: its node here, its entry in the table of its layer. */
const NODE_BYTES = 120

interface Node {
  readonly table: BlockTable<Sized>
  readonly at: number
  readonly sizeBytes: number
  readonly block: Sized
  wasUsed: boolean
  next: Node | undefined
}

export class BlockCache {
  readonly #sizeBytesMax: number
  #sizeBytes = 0
  #oldest: Node | undefined
  #newest: Node | undefined

  constructor(sizeBytesMax: number) {
    this.#sizeBytesMax = sizeBytesMax
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  /** The blocks of one layer. */
  table<T extends Sized>(): BlockTable<T> {
    return new BlockTable<T>(this)
  }

  /** For tables. */
  add(table: BlockTable<Sized>, at: number, block: Sized): Node {
    const node: Node = {
      table,
      at,
      sizeBytes: block.sizeBytes + NODE_BYTES,
      block,
      wasUsed: false,
      next: undefined,
    }
    // The hand goes round twice at most: a block that it has passed is not used again in between.
    while (this.#sizeBytes + node.sizeBytes > this.#sizeBytesMax && this.#oldest !== undefined)
      this.#passOldest()
    this.#append(node)
    this.#sizeBytes += node.sizeBytes
    return node
  }
  #append(node: Node): void {
    node.next = undefined
    if (this.#newest === undefined) this.#oldest = node
    else this.#newest.next = node
    this.#newest = node
  }
  #passOldest(): void {
    const node = this.#oldest as Node
    this.#oldest = node.next
    if (this.#oldest === undefined) this.#newest = undefined
    if (node.wasUsed) {
      node.wasUsed = false
      this.#append(node)
      return
    }
    node.table.evicted(node.at)
    this.#sizeBytes -= node.sizeBytes
  }
}

/** Blocks by where they begin in their file. */
export class BlockTable<T extends Sized> {
  readonly #cache: BlockCache
  readonly #nodes = new Map<number, Node>()

  constructor(cache: BlockCache) {
    this.#cache = cache
  }

  get(at: number): T | undefined {
    const node = this.#nodes.get(at)
    if (node === undefined) return undefined
    node.wasUsed = true
    return node.block as T
  }
  put(at: number, block: T): void {
    if (this.#nodes.has(at)) return
    this.#nodes.set(at, this.#cache.add(this, at, block))
  }
  /** For the cache. */
  evicted(at: number): void {
    this.#nodes.delete(at)
  }
}
