/**
 * How much WAL may be kept on this safekeeper's disk: of one timeline, and of all. A timeline at its limit takes no
 * more until some is released; acknowledged WAL is not touched by it.
 *
 * WAL counts from the first byte that is kept to the last that was taken in. Files are up to a segment longer.
 */
import { Signal } from '@understory/actor'
import { fail } from '@understory/base'
import type { UnderstoryError } from '@understory/base'
import type { Clock } from '@understory/env'

/** An append that finds no room waits so long for some before it is refused. Shorter than a proposer's patience. */
const HOLD_MS = 2_000
const MIB = 1024 * 1024

export interface QuotaLimits {
  /** Of each timeline; undefined = none. */
  readonly timelineBytes: number | undefined
  /** Of all timelines together; undefined = none. */
  readonly nodeBytes: number | undefined
}

export class NodeQuota {
  readonly #timelineBytesMax: number
  readonly #nodeBytesMax: number
  readonly #clock: Clock
  readonly #freed = new Signal()
  #usedBytes = 0

  constructor(limits: QuotaLimits, clock: Clock) {
    this.#timelineBytesMax = limits.timelineBytes ?? Infinity
    this.#nodeBytesMax = limits.nodeBytes ?? Infinity
    this.#clock = clock
  }

  /** WAL of all timelines. */
  get usedBytes(): number {
    return this.#usedBytes
  }

  /** A timeline keeps so much more, or less, than before. */
  reserve(changeBytes: number): void {
    this.#usedBytes += changeBytes
    if (changeBytes < 0) this.#freed.notify()
  }

  /** Why a timeline that keeps `keptBytes` cannot have `moreBytes` more; undefined where it can. */
  refusal(keptBytes: number, moreBytes: number): UnderstoryError | undefined {
    if (keptBytes + moreBytes > this.#timelineBytesMax)
      return fail('disk_full', `the timeline is at its quota of ${mib(this.#timelineBytesMax)}`, {
        detail: `it keeps ${mib(keptBytes)} of WAL`,
        hint: 'WAL is released once it is in the object store: check why it does not get there, or raise --timeline-quota-mib.',
      })
    if (this.#usedBytes + moreBytes > this.#nodeBytesMax)
      return fail('disk_full', `the safekeeper is at its quota of ${mib(this.#nodeBytesMax)}`, {
        detail: `its timelines keep ${mib(this.#usedBytes)} of WAL, this one ${mib(keptBytes)}`,
        hint: 'WAL is released once it is in the object store: check why it does not get there, or raise --node-quota-mib.',
      })
    return undefined
  }

  /** Whether more than half is used: a timeline that keeps `keptBytes` should keep no more than it must. */
  isLow(keptBytes: number): boolean {
    return keptBytes * 2 > this.#timelineBytesMax || this.#usedBytes * 2 > this.#nodeBytesMax
  }

  /** Resolves once `hasRoom`, or after a while without. */
  async waitForRoom(hasRoom: () => boolean): Promise<void> {
    if (hasRoom()) return
    const over = new AbortController()
    const timer = this.#clock.setTimer(HOLD_MS, () => over.abort())
    await this.#freed.until(hasRoom, over.signal)
    timer.cancel()
  }
}

/** Where there are no limits. */
export const unlimitedQuota = (clock: Clock): NodeQuota =>
  new NodeQuota({ timelineBytes: undefined, nodeBytes: undefined }, clock)

const mib = (bytes: number): string => `${Math.round(bytes / MIB)} MiB`
