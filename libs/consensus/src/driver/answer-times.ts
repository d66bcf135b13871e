/**
 * How long safekeepers take to answer an append when nothing else makes them wait: the shortest time of the last while,
 * which is that of the network and the disk, however busy the machines are.
 */
import type { Lsn } from '@understory/base'

/** The windows of the shortest time: this one and the one before. */
const WINDOW_MS = 5_000
/** An answer that takes longer even at best is worth a second append on its way. */
const FAR_MS = 2

export class AnswerTimes {
  readonly #asked = new Map<string, { readonly lsn: Lsn; readonly atMs: number }>()
  #windowStartMs = 0
  #shortestMs = Infinity
  #shortestBeforeMs = Infinity

  /** An append with WAL up to a record end at `lsn` is sent to `name`. An append that is still timed goes first. */
  sent(name: string, lsn: Lsn, nowMs: number): void {
    if (!this.#asked.has(name)) this.#asked.set(name, { lsn, atMs: nowMs })
  }

  /** `name` says that it has flushed up to `flushLsn`. */
  answered(name: string, flushLsn: Lsn, nowMs: number): void {
    const asked = this.#asked.get(name)
    if (asked === undefined || flushLsn < asked.lsn) return
    this.#asked.delete(name)
    if (nowMs - this.#windowStartMs > WINDOW_MS) {
      this.#windowStartMs = nowMs
      this.#shortestBeforeMs = this.#shortestMs
      this.#shortestMs = Infinity
    }
    this.#shortestMs = Math.min(this.#shortestMs, nowMs - asked.atMs)
  }

  /** The append to `name` is not going to be answered any more. */
  forget(name: string): void {
    this.#asked.delete(name)
  }

  get areFar(): boolean {
    const shortestMs = Math.min(this.#shortestMs, this.#shortestBeforeMs)
    return shortestMs !== Infinity && shortestMs > FAR_MS
  }
}
