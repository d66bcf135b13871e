/**
 * Room for one timeline's WAL: what it keeps counts towards the limits, and why it takes no more is known here, be it a
 * quota or the disk. It goes on by itself once there is room.
 */
import { describeError, formatLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Log } from '@understory/env'
import { DiskSpace } from './disk-space.ts'

/** Whose room it is. */
export interface WalKeeper {
  /** WAL that lies here. */
  readonly keptBytes: number
  readonly state: { readonly flushLsn: Lsn }
}

export class TimelineSpace {
  readonly #log: Log
  readonly #keeper: WalKeeper
  readonly #onShort: () => void
  #space = new DiskSpace({ timelineBytes: undefined, nodeBytes: undefined })
  #chargedBytes = 0
  /** Of the append that was refused by a quota; 0 where none was since one was taken. */
  #refusedBytes = 0
  /** What the disk said; undefined since it last took something. */
  #diskFull: Error | undefined

  /** `onShort` is called whenever there is no room for something. */
  constructor(log: Log, keeper: WalKeeper, onShort: () => void) {
    this.#log = log
    this.#onShort = onShort
    this.#keeper = keeper
  }

  /** From now on its WAL counts there, and its limits hold. */
  share(space: DiskSpace): void {
    this.#space = space
    this.charge()
  }

  /** After a change of what is kept. */
  charge(): void {
    const { keptBytes } = this.#keeper
    if (keptBytes === this.#chargedBytes) return
    this.#space.charge(keptBytes - this.#chargedBytes)
    this.#chargedBytes = keptBytes
  }

  /** At its end: it counts no more. */
  release(): void {
    this.#space.charge(-this.#chargedBytes)
    this.#chargedBytes = 0
  }

  /** Why there is none for now, or undefined. */
  get shortage(): Error | undefined {
    const byQuota = this.#refusedBytes === 0 ? undefined : this.refusal(this.#refusedBytes)
    return byQuota ?? this.#diskFull
  }

  /** Whether the disk, rather than a quota, has none. */
  get isDiskFull(): boolean {
    return this.#diskFull !== undefined
  }

  /** Whether it had better keep no more than it must. */
  get isTight(): boolean {
    return this.shortage !== undefined || this.#space.isTight(this.#keeper.keptBytes)
  }

  /** Why a quota refuses so much more. */
  refusal(moreBytes: number): Error | undefined {
    return moreBytes === 0 ? undefined : this.#space.refusal(this.#keeper.keptBytes, moreBytes)
  }

  /** Resolves once a quota lets so much more in, or `isOver`, or after a while without either. */
  waitFor(moreBytes: number, isOver: () => boolean): Promise<void> {
    const isFirst = this.#refusedBytes === 0
    this.#refusedBytes = moreBytes
    if (isFirst) this.#sayFull(this.refusal(moreBytes))
    this.#onShort()
    return this.#space.waitForRoom(() => isOver() || this.refusal(moreBytes) === undefined)
  }

  /** The disk did not take something. */
  lack(error: Error): void {
    const isFirst = this.#diskFull === undefined
    this.#diskFull = error
    if (isFirst) this.#sayFull(error)
    this.#onShort()
  }

  /** The disk has taken something. */
  taken(): void {
    if (this.#refusedBytes === 0 && this.#diskFull === undefined) return
    this.#diskFull = undefined
    // What was on its way when a quota refused more does not make room.
    if (this.shortage !== undefined) return
    this.#refusedBytes = 0
    this.#log.info('timeline_has_space', { flush: formatLsn(this.#keeper.state.flushLsn) })
  }

  #sayFull(why: unknown): void {
    const flush = formatLsn(this.#keeper.state.flushLsn)
    this.#log.warn('timeline_out_of_space', { reason: describeError(why), flush })
  }
}
