/** The timed work of a driver: a heartbeat now and then, and news of the commit position soon after it moved. */
import type { Clock, Timer } from '@understory/env'
import type { DriverLimits } from './limits.ts'

export interface PulseOwner {
  readonly clock: Clock
  readonly limits: DriverLimits
  beat(): void
  /** Sends the commit position; returns whether a member still has to get it. */
  announceCommit(): boolean
}

export class Pulse {
  readonly #owner: PulseOwner
  #heartbeat: Timer
  #news: Timer | undefined
  #isOver = false

  constructor(owner: PulseOwner) {
    this.#owner = owner
    this.#heartbeat = owner.clock.setTimer(owner.limits.heartbeatMs, this.#beat)
  }

  announceSoon(): void {
    this.#news ??= this.#owner.clock.setTimer(this.#owner.limits.newsMs, this.#announceCommit)
  }

  end(): void {
    this.#isOver = true
    this.#heartbeat.cancel()
    this.#news?.cancel()
  }

  readonly #beat = (): void => {
    const { clock, limits } = this.#owner
    this.#owner.beat()
    if (!this.#isOver) this.#heartbeat = clock.setTimer(limits.heartbeatMs, this.#beat)
  }

  readonly #announceCommit = (): void => {
    const isMore = this.#owner.announceCommit() && !this.#isOver
    this.#news = undefined
    if (isMore) this.announceSoon()
  }
}
