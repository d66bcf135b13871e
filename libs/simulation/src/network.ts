/**
 * Streams between a proposer and an acceptor over a network that misbehaves. A stream is either like gRPC's, in order
 * and whole until it breaks, or a bag of messages that may each be lost, repeated and overtaken: the state machines
 * must be safe with both.
 */
import type { Rng } from '@understory/env'
import type { Counts } from './counts.ts'
import type { Schedule } from './schedule.ts'

/** How bad an ordinary moment is; each schedule has its own. */
export interface Weather {
  readonly isOrdered: boolean
  readonly lossChance: number
  readonly repeatChance: number
  readonly breakChance: number
  readonly delayMsMax: number
}

type Direction = 'out' | 'back'

export class Network {
  readonly #schedule: Schedule
  readonly #rng: Rng
  readonly #counts: Counts
  readonly #weather: Weather
  readonly #streams = new Set<Stream>()
  /** By `from>to`: until when nothing passes, and until when it takes long. */
  readonly #blocked = new Map<string, number>()
  readonly #slow = new Map<string, number>()
  isCalm = false

  constructor(schedule: Schedule, rng: Rng, counts: Counts, weather: Weather) {
    this.#schedule = schedule
    this.#rng = rng
    this.#counts = counts
    this.#weather = weather
  }

  open(from: string, to: string, onBroken: () => void): Stream {
    const stream = new Stream(from, to, onBroken)
    this.#streams.add(stream)
    return stream
  }

  send(stream: Stream, direction: Direction, deliver: () => void): void {
    if (!stream.isOpen) return
    const { lossChance, repeatChance, breakChance, isOrdered } = this.#weather
    const route = direction === 'out' ? `${stream.from}>${stream.to}` : `${stream.to}>${stream.from}`
    const delayMs = this.#delayMs(route)
    const blockedMs = (this.#blocked.get(route) ?? 0) - this.#schedule.nowMs
    if (isOrdered || this.isCalm) {
      if (!this.isCalm && this.#chance(blockedMs > 0 ? 0.2 : breakChance)) {
        this.#schedule.at(blockedMs > 0 ? 50 + this.#rng.below(300) : 0, () => this.break(stream, true))
        if (blockedMs <= 0) return
      }
      const arrivalMs = Math.max(
        stream.lastArrivalMs[direction],
        this.#schedule.nowMs + delayMs + Math.max(0, blockedMs),
      )
      stream.lastArrivalMs[direction] = arrivalMs
      this.#schedule.at(arrivalMs - this.#schedule.nowMs, () => {
        if (stream.isOpen) deliver()
      })
      return
    }
    if (blockedMs > 0) return
    if (this.#chance(lossChance)) return this.#counts.fault('message lost')
    let copies = 1
    if (this.#chance(repeatChance)) {
      copies = 2
      this.#counts.fault('message repeated')
    }
    for (let copy = 0; copy < copies; copy++) {
      const atMs = this.#schedule.nowMs + this.#delayMs(route)
      if (atMs < stream.lastArrivalMs[direction]) this.#counts.fault('messages reordered')
      stream.lastArrivalMs[direction] = Math.max(stream.lastArrivalMs[direction], atMs)
      this.#schedule.at(atMs - this.#schedule.nowMs, deliver)
    }
  }

  break(stream: Stream, isFault = false): void {
    if (!stream.isOpen) return
    stream.isOpen = false
    this.#streams.delete(stream)
    if (isFault) this.#counts.fault('stream broken')
    this.#schedule.at(1 + this.#rng.below(5), stream.onBroken)
  }

  breakAllOf(name: string): void {
    for (const stream of this.#streams) if (stream.from === name || stream.to === name) this.break(stream)
  }

  block(from: string, to: string, durationMs: number): void {
    const until = this.#schedule.nowMs + durationMs
    this.#blocked.set(`${from}>${to}`, Math.max(until, this.#blocked.get(`${from}>${to}`) ?? 0))
  }

  slow(from: string, to: string, durationMs: number): void {
    this.#slow.set(`${from}>${to}`, this.#schedule.nowMs + durationMs)
  }

  heal(): void {
    this.isCalm = true
    this.#blocked.clear()
    this.#slow.clear()
  }

  #delayMs(route: string): number {
    if (this.isCalm) return 1 + this.#rng.below(3)
    const isSlow = (this.#slow.get(route) ?? 0) > this.#schedule.nowMs
    const most = this.#chance(0.03) ? 200 : this.#weather.delayMsMax
    return 1 + this.#rng.below(most) + (isSlow ? 50 + this.#rng.below(300) : 0)
  }

  #chance(probability: number): boolean {
    return probability > 0 && this.#rng.fraction() < probability
  }
}

export class Stream {
  readonly from: string
  readonly to: string
  readonly onBroken: () => void
  isOpen = true
  readonly lastArrivalMs = { out: 0, back: 0 }

  constructor(from: string, to: string, onBroken: () => void) {
    this.from = from
    this.to = to
    this.onBroken = onBroken
  }
}
