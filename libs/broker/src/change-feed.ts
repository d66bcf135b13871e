/**
 * Changes on their way to one reader. Of several changes to a key only the last is kept, and one that comes back to
 * what the reader knows is none: so a slow reader costs one entry a key and no more.
 */
import type { ChangeSink } from './transport.ts'

export type FeedItem =
  | { readonly kind: 'announced'; readonly key: string; readonly text: string }
  | { readonly kind: 'gone'; readonly key: string }
  /** All of a snapshot has been reported. */
  | { readonly kind: 'complete' }

export class ChangeFeed implements ChangeSink {
  readonly #reported = new Map<string, string>()
  readonly #current = new Map<string, string>()
  readonly #changedKeys = new Set<string>()
  #isCompleteDue = false
  #wake: () => void = () => undefined

  snapshot(entries: ReadonlyMap<string, string>): void {
    for (const key of this.#current.keys()) if (!entries.has(key)) this.gone(key)
    for (const [key, text] of entries) this.announced(key, text)
    this.#isCompleteDue = true
    this.#wake()
  }

  announced(key: string, text: string): void {
    this.#current.set(key, text)
    this.#changedKeys.add(key)
    this.#wake()
  }

  gone(key: string): void {
    this.#current.delete(key)
    this.#changedKeys.add(key)
    this.#wake()
  }

  /** Yields until the signal fires. One reader. */
  async *read(signal: AbortSignal): AsyncGenerator<FeedItem, void, void> {
    const onAbort = (): void => this.#wake()
    signal.addEventListener('abort', onAbort)
    try {
      while (!signal.aborted) {
        const item = this.#next()
        if (item !== undefined) {
          yield item
          continue
        }
        await new Promise<void>((resolve) => {
          this.#wake = resolve
          if (signal.aborted || this.#changedKeys.size > 0 || this.#isCompleteDue) resolve()
        })
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  #next(): FeedItem | undefined {
    for (const key of this.#changedKeys) {
      this.#changedKeys.delete(key)
      const text = this.#current.get(key)
      if (text === this.#reported.get(key)) continue
      if (text === undefined) {
        this.#reported.delete(key)
        return { kind: 'gone', key }
      }
      this.#reported.set(key, text)
      return { kind: 'announced', key, text }
    }
    if (!this.#isCompleteDue) return undefined
    this.#isCompleteDue = false
    return { kind: 'complete' }
  }
}
