/**
 * Room for one timeline's WAL: what it keeps counts towards the limits, and why it takes no more is known here, be it a
 * quota or the disk. It continues by itself once there is room.
 */
import { describeError, formatLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Log } from '@understory/env'
import type { NodeQuota } from './node-quota.ts'

/** The timeline whose WAL counts. */
export interface WalKeeper {
  /** WAL that is kept here. */
  readonly keptBytes: number
  readonly state: { readonly flushLsn: Lsn }
}

export interface WalQuotaParts {
  readonly log: Log
  readonly keeper: WalKeeper
  readonly node: NodeQuota
  /** Called whenever there is no room for something. */
  readonly onExceeded: () => void
}

export class WalQuota {
  readonly #parts: WalQuotaParts
  #reservedBytes = 0
  /** Of the append that was refused by a quota; 0 where none was since one was taken. */
  #refusedBytes = 0
  /** The error of the disk; undefined since it last took something. */
  #diskFull: Error | undefined

  constructor(parts: WalQuotaParts) {
    this.#parts = parts
  }

  /** After a change of what is kept. */
  reserve(): void {
    const { keeper, node } = this.#parts
    const { keptBytes } = keeper
    if (keptBytes === this.#reservedBytes) return
    node.reserve(keptBytes - this.#reservedBytes)
    this.#reservedBytes = keptBytes
  }

  /** At the timeline's end: its WAL counts no more. */
  release(): void {
    this.#parts.node.reserve(-this.#reservedBytes)
    this.#reservedBytes = 0
  }

  /** Why there is no room for now, or undefined. */
  get shortage(): Error | undefined {
    const byQuota = this.#refusedBytes === 0 ? undefined : this.refusal(this.#refusedBytes)
    return byQuota ?? this.#diskFull
  }

  /** Whether the disk, rather than a quota, has no room. */
  get isDiskFull(): boolean {
    return this.#diskFull !== undefined
  }

  /** Whether the timeline should keep no more than it must. */
  get isLow(): boolean {
    return this.shortage !== undefined || this.#parts.node.isLow(this.#parts.keeper.keptBytes)
  }

  /** Why a quota refuses so much more; undefined where it does not. */
  refusal(moreBytes: number): Error | undefined {
    return moreBytes === 0 ? undefined : this.#parts.node.refusal(this.#parts.keeper.keptBytes, moreBytes)
  }

  /** Resolves once a quota lets so much more in, or `isOver`, or after a while without either. */
  waitFor(moreBytes: number, isOver: () => boolean): Promise<void> {
    const isFirst = this.#refusedBytes === 0
    this.#refusedBytes = moreBytes
    if (isFirst) this.#logFull(this.refusal(moreBytes))
    this.#parts.onExceeded()
    return this.#parts.node.waitForRoom(() => isOver() || this.refusal(moreBytes) === undefined)
  }

  /** The disk did not take something. */
  exceeded(error: Error): void {
    const isFirst = this.#diskFull === undefined
    this.#diskFull = error
    if (isFirst) this.#logFull(error)
    this.#parts.onExceeded()
  }

  /** The disk has taken something. */
  cleared(): void {
    if (this.#refusedBytes === 0 && this.#diskFull === undefined) return
    this.#diskFull = undefined
    // WAL that was on its way when a quota refused more does not make room.
    if (this.shortage !== undefined) return
    this.#refusedBytes = 0
    this.#parts.log.info('timeline_has_space', { flush: formatLsn(this.#parts.keeper.state.flushLsn) })
  }

  #logFull(why: unknown): void {
    const flush = formatLsn(this.#parts.keeper.state.flushLsn)
    this.#parts.log.warn('timeline_out_of_space', { reason: describeError(why), flush })
  }
}
