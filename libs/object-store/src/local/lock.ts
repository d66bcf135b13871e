/**
 * A lock between processes, and containers, that share a folder. It is SQLite's lock on an empty database, that is the
 * kernel's: it ends with its holder however that ends, and a holder that was paused for long still holds it. (Lock
 * files with a pid or a lease in them have neither property.) It is held for one synchronous step only, about 50 us.
 */
import { DatabaseSync } from 'node:sqlite'
import { describeError, fail } from '@understory/base'
import { type Clock, type Rng, backoffMs } from '@understory/env'

const SQLITE_BUSY = 5
const WAIT_MS_MAX = 30_000

export class FolderLock {
  readonly #path: string
  readonly #clock: Clock
  readonly #rng: Rng
  readonly #database: DatabaseSync

  constructor(path: string, clock: Clock, rng: Rng) {
    this.#path = path
    this.#clock = clock
    this.#rng = rng
    try {
      this.#database = new DatabaseSync(path, { timeout: 0 })
    } catch (error) {
      throw fail('precondition', `could not open lock file "${path}"`, {
        detail: describeError(error),
        cause: error,
      })
    }
  }

  /** Waits for the lock, runs `step` under it, and gives it back. */
  async hold<T>(
    options: { readonly signal?: AbortSignal | undefined; readonly deadlineMs?: number } | undefined,
    step: () => T,
  ): Promise<T> {
    const waitMs = Math.min(options?.deadlineMs ?? WAIT_MS_MAX, WAIT_MS_MAX)
    const deadlineMs = this.#clock.nowMs() + waitMs
    for (let attempt = 1; !this.#tryLock(); attempt++) {
      if (this.#clock.nowMs() > deadlineMs) {
        throw fail('timeout', `could not get the lock "${this.#path}" within ${waitMs} ms`)
      }
      await this.#clock.sleep(backoffMs(this.#rng, attempt, { baseMs: 1, pauseMsMax: 20 }), options?.signal)
    }
    try {
      return step()
    } finally {
      this.#database.exec('ROLLBACK')
    }
  }

  close(): void {
    if (this.#database.isOpen) this.#database.close()
  }

  #tryLock(): boolean {
    try {
      this.#database.exec('BEGIN EXCLUSIVE')
      return true
    } catch (error) {
      if ((error as { errcode?: number }).errcode === SQLITE_BUSY) return false
      throw fail('precondition', `could not lock "${this.#path}"`, {
        detail: describeError(error),
        cause: error,
      })
    }
  }
}
