/** A first-in first-out queue with a maximum weight: a producer waits while it is full. One consumer. */
import { fail } from './errors.ts'

export class BoundedQueue<T> {
  readonly #items: { readonly value: T; readonly weight: number }[] = []
  readonly #weightMax: number
  readonly #room: (() => void)[] = []
  #weight = 0
  #arrival: (() => void) | undefined
  #closed = false
  #failure: Error | undefined

  /** `weightMax`: for instance bytes. One item heavier than the maximum is still let in when the queue is empty. */
  constructor(weightMax: number) {
    this.#weightMax = weightMax
  }

  get weight(): number {
    return this.#weight
  }
  get size(): number {
    return this.#items.length
  }

  /** Resolves once the item is in; rejects when the queue was closed. */
  async push(value: T, weight = 1): Promise<void> {
    while (!this.#closed && this.#weight > 0 && this.#weight + weight > this.#weightMax) {
      await new Promise<void>((resolve) => this.#room.push(resolve))
    }
    if (this.#closed) throw fail('cancelled', 'queue is closed', { cause: this.#failure })
    this.#items.push({ value, weight })
    this.#weight += weight
    this.#arrival?.()
    this.#arrival = undefined
  }

  /** True if the item went in; false, and nothing done, where it would have to wait. */
  tryPush(value: T, weight = 1): boolean {
    if (this.#closed || (this.#weight > 0 && this.#weight + weight > this.#weightMax)) return false
    this.#items.push({ value, weight })
    this.#weight += weight
    this.#arrival?.()
    this.#arrival = undefined
    return true
  }

  /** The next item, or undefined once closed and empty. Rejects with the failure the queue was closed with. */
  async shift(): Promise<T | undefined> {
    while (this.#items.length === 0) {
      if (this.#failure !== undefined) throw this.#failure
      if (this.#closed) return undefined
      await new Promise<void>((resolve) => {
        this.#arrival = resolve
      })
    }
    return this.tryShift()
  }

  /** The next item if one is there already. */
  tryShift(): T | undefined {
    const item = this.#items.shift()
    if (item === undefined) return undefined
    this.#weight -= item.weight
    for (const wake of this.#room.splice(0)) wake()
    return item.value
  }

  /** No more items; what is in can still be taken, unless `failure` says why it must not. */
  close(failure?: unknown): void {
    this.#closed = true
    if (failure !== undefined) {
      this.#failure =
        failure instanceof Error ? failure : new Error('queue was closed by a failure', { cause: failure })
    }
    if (failure !== undefined) this.#items.length = 0
    this.#arrival?.()
    for (const wake of this.#room.splice(0)) wake()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, void> {
    for (;;) {
      const value = await this.shift()
      if (value === undefined) return
      yield value
    }
  }
}
