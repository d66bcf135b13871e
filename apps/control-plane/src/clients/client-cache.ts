/** gRPC clients by address. A client whose address is no longer asked for is closed: its process is gone, or moved. */
import type { Clock } from '@understory/env'

/** The reconcilers ask every process that is there each second; the longest call takes ten minutes. */
const UNUSED_MS_MAX = 15 * 60_000
const SWEEP_MS = 60_000

interface Used<C> {
  readonly client: C
  usedMs: number
}

export class ClientCache<C extends { close(): void }> {
  readonly #clients = new Map<string, Used<C>>()
  readonly #make: (address: string) => C
  readonly #clock: Pick<Clock, 'nowMs'>
  #sweptMs: number

  constructor(clock: Pick<Clock, 'nowMs'>, make: (address: string) => C) {
    this.#clock = clock
    this.#make = make
    this.#sweptMs = clock.nowMs()
  }

  /** The client of an address: made by the first call, and again after it was closed. */
  at(address: string): C {
    const nowMs = this.#clock.nowMs()
    const used = this.#clients.get(address) ?? { client: this.#make(address), usedMs: nowMs }
    used.usedMs = nowMs
    this.#clients.set(address, used)
    if (nowMs - this.#sweptMs >= SWEEP_MS) this.#closeUnused(nowMs)
    return used.client
  }

  close(): void {
    for (const { client } of this.#clients.values()) client.close()
    this.#clients.clear()
  }

  #closeUnused(nowMs: number): void {
    this.#sweptMs = nowMs
    for (const [address, { client, usedMs }] of this.#clients) {
      if (nowMs - usedMs <= UNUSED_MS_MAX) continue
      this.#clients.delete(address)
      client.close()
    }
  }
}
