/**
 * How much WAL is in memory, of all timelines together. The timelines that hold some share a budget in equal parts: one
 * on its own gets the most, and a hundred at once take no more than ten.
 */
const MIB = 1024 * 1024

export class FairShare {
  readonly #bytesMax: number
  readonly #partBytesMax: number
  readonly #holders = new Set<object>()

  /** In bytes: of all, and of one at most. */
  constructor(bytesMax: number, partBytesMax: number) {
    this.#bytesMax = bytesMax
    this.#partBytesMax = partBytesMax
  }

  /** In bytes: the part of each that holds something. */
  get partBytes(): number {
    return Math.min(this.#partBytesMax, this.#bytesMax / Math.max(1, this.#holders.size))
  }

  /** Says whether `holder` holds something now. It may say so again. */
  note(holder: object, holds: boolean): void {
    if (holds) this.#holders.add(holder)
    else this.#holders.delete(holder)
  }
}

/** Of one process. */
export class WalMemory {
  /** WAL that was taken in and is not durable: waiting, and being written. One message may come on top of a part. */
  readonly unflushed = new FairShare(32 * MIB, 8 * MIB)
  /** Recent WAL, for those who follow the commit position; always the last message of a timeline. */
  readonly recent = new FairShare(32 * MIB, 1 * MIB)
}
