/** Owns the condition of a shard: loading, readable, stopped by a failure, or detached. */
import { describeError, isErrorCode } from '@understory/base'

export class ShardCondition {
  readonly #onFailure: (error: unknown) => void
  readonly #stopping = new AbortController()
  #failure: string | undefined
  #isDamaged = false
  #isReadable = false
  #isLoading = false

  /** `onFailure` is called once, with the failure that stops the shard. */
  constructor(onFailure: (error: unknown) => void) {
    this.#onFailure = onFailure
  }

  /** The failure that has stopped the shard, or undefined. */
  get failure(): string | undefined {
    return this.#failure
  }
  get hasFailed(): boolean {
    return this.#failure !== undefined
  }
  /** Whether it has stopped for a damaged file. */
  get isDamaged(): boolean {
    return this.#isDamaged
  }
  /** False where layers are missing: those that are there could answer wrongly. */
  get isReadable(): boolean {
    return this.#isReadable
  }
  /** Not all that its index lists is open yet. */
  get isLoading(): boolean {
    return this.#isLoading
  }
  get isStopped(): boolean {
    return this.#stopping.signal.aborted
  }
  /** Whether no work is wanted any more. */
  get isOver(): boolean {
    return this.hasFailed || this.isStopped
  }
  /** Fires with `stop`. */
  get stopSignal(): AbortSignal {
    return this.#stopping.signal
  }

  /** Runs the work that makes the shard readable; `isImported` says whether a failure of it stops the shard. */
  async load(work: () => Promise<void>, isImported: () => boolean): Promise<void> {
    this.#isLoading = true
    try {
      await work()
      this.#isReadable = true
    } catch (error) {
      // Data of an import that is here is loaded under a new generation.
      if (isImported()) this.fail(error)
      throw error
    } finally {
      this.#isLoading = false
    }
  }

  /** Only the first failure counts, and none after `stop`. */
  fail(error: unknown): void {
    if (this.isOver) return
    this.#failure = describeError(error)
    this.#isDamaged = isErrorCode(error, 'bad_file')
    this.#onFailure(error)
  }

  stop(): void {
    this.#stopping.abort()
  }
}
