/**
 * Holds back the answers of the standby, by which transaction commits proceed, so that WAL comes at a given rate at
 * most. Without a rate every answer is given at once.
 *
 *   * An answer is never given before a quorum has its WAL: it is a position that `committed` was given, in that order.
 *   * An answer is held for as long as its WAL takes at the rate, counted from the one before, and never for more than
 *     ANSWER_HELD_MS_MAX: WAL that no client waits for (COPY, VACUUM, `synchronous_commit = off`) cannot be held back,
 *     and a commit behind a gigabyte of it would otherwise wait for hours.
 *   * Time without WAL counts for what comes next, up to CREDIT_MS: a single writer, which commits and then thinks,
 *     gets the rate as many do.
 *
 * Answers that repeat a position, by which Postgres knows that the standby lives, do not come through here.
 */
import { assert, bytesBetween, formatLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock, Timer } from '@understory/env'

/** Below what clients and operators wait for one commit. */
export const ANSWER_HELD_MS_MAX = 10_000
const CREDIT_MS = 250
/** More are held as one, by the time of its first. */
const HELD_COUNT_MAX = 1_024

interface Held {
  lsn: Lsn
  readonly atMs: number
}

export class AnswerBrake {
  readonly #clock: Pick<Clock, 'nowMs' | 'setTimer'>
  readonly #answer: (lsn: Lsn) => void
  /** In order; the newest is what is committed. */
  #held: Held[] = []
  #answeredLsn: Lsn
  #committedLsn: Lsn
  #bytesPerS = Infinity
  /** Bytes that may be answered at `#countedMs`. */
  #creditBytes = 0
  #countedMs: number
  #timer: Timer | undefined
  #isOver = false

  /** `startLsn`: up to there Postgres needs no answer. */
  constructor(clock: Pick<Clock, 'nowMs' | 'setTimer'>, startLsn: Lsn, answer: (lsn: Lsn) => void) {
    this.#clock = clock
    this.#answer = answer
    this.#answeredLsn = startLsn
    this.#committedLsn = startLsn
    this.#countedMs = clock.nowMs()
  }

  /** WAL that a quorum has and Postgres does not know of yet. */
  get heldBytes(): number {
    return bytesBetween(this.#answeredLsn, this.#committedLsn)
  }
  /** For so long the oldest answer is held; 0 where none is. */
  get heldMs(): number {
    const [oldest] = this.#held
    return oldest === undefined ? 0 : this.#clock.nowMs() - oldest.atMs
  }

  /** `Infinity`: nothing is slowed, and what is held is answered. */
  limit(bytesPerS: number): void {
    assert(bytesPerS > 0, () => `a rate of ${bytesPerS} bytes/s stops writers`)
    if (bytesPerS === this.#bytesPerS || this.#isOver) return
    if (this.#bytesPerS === Infinity) this.#begin()
    else this.#count()
    this.#bytesPerS = bytesPerS
    this.#step()
  }

  /** A quorum has everything before. */
  committed(lsn: Lsn): void {
    if (lsn <= this.#committedLsn || this.#isOver) return
    this.#committedLsn = lsn
    // The way of nearly all commits.
    if (this.#bytesPerS === Infinity) return this.#give(lsn)
    this.#count()
    const newest = this.#held.at(-1)
    if (newest !== undefined && this.#held.length >= HELD_COUNT_MAX) newest.lsn = lsn
    else this.#held.push({ lsn, atMs: this.#countedMs })
    this.#step()
  }

  /** Nothing is answered any more. */
  end(): void {
    this.#isOver = true
    this.#timer?.cancel()
    this.#held = []
  }

  /** From a time in which nothing was counted. */
  #begin(): void {
    this.#countedMs = this.#clock.nowMs()
    this.#creditBytes = 0
  }

  /** Brings the credit to the present; what is not used within CREDIT_MS is lost. */
  #count(): void {
    const nowMs = this.#clock.nowMs()
    const passedMs = nowMs - this.#countedMs
    this.#countedMs = nowMs
    this.#creditBytes += (passedMs * this.#bytesPerS) / 1_000
    if (this.#held.length > 0) return
    this.#creditBytes = Math.min(this.#creditBytes, (CREDIT_MS * this.#bytesPerS) / 1_000)
  }

  #step(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    const nowMs = this.#countedMs
    let answeredLsn = this.#answeredLsn
    let count = 0
    for (const { lsn, atMs } of this.#held) {
      const bytes = bytesBetween(answeredLsn, lsn)
      const isPaid = bytes <= this.#creditBytes
      if (!isPaid && this.#bytesPerS !== Infinity && nowMs - atMs < ANSWER_HELD_MS_MAX) break
      this.#creditBytes = isPaid ? this.#creditBytes - bytes : 0
      answeredLsn = lsn
      count++
    }
    this.#held.splice(0, count)
    if (answeredLsn > this.#answeredLsn) this.#give(answeredLsn)
    const [oldest] = this.#held
    if (oldest !== undefined) this.#wakeFor(oldest)
  }

  #give(lsn: Lsn): void {
    assert(
      lsn <= this.#committedLsn,
      () => `I1: ${formatLsn(lsn)} is answered, and ${formatLsn(this.#committedLsn)} is committed`,
    )
    this.#answeredLsn = lsn
    this.#answer(lsn)
  }

  #wakeFor({ lsn, atMs }: Held): void {
    const missingBytes = bytesBetween(this.#answeredLsn, lsn) - this.#creditBytes
    const paidInMs = (missingBytes * 1_000) / this.#bytesPerS
    const untilMs = Math.min(this.#countedMs + paidInMs, atMs + ANSWER_HELD_MS_MAX)
    // Whole milliseconds, rounded up: a timer that is early by a hair would be set again and again.
    const delayMs = Math.max(1, Math.ceil(untilMs - this.#countedMs))
    this.#timer = this.#clock.setTimer(delayMs, () => {
      this.#count()
      this.#step()
    })
  }
}
