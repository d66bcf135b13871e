/** A broker that another process embeds, over gRPC. */
import { fail } from '@understory/base'
import { BrokerServiceClient, callServerStream, callUnary, createClient } from '@understory/rpc'
import type { ClientContext } from '@understory/rpc'
import type { ChangeSink, Transport } from './transport.ts'

const DEADLINE_MS = 5_000

export class EmbeddedClient implements Transport {
  readonly description: string
  readonly #client: BrokerServiceClient
  readonly #options: { readonly deadlineMs: number; readonly peer: string }
  readonly #returnCallbacks: (() => void)[] = []
  #isAway = false

  /** `address` is host:port. */
  constructor(rpc: ClientContext, address: string) {
    this.description = `grpc://${address}`
    this.#options = { deadlineMs: DEADLINE_MS, peer: `broker ${address}` }
    this.#client = createClient(rpc, BrokerServiceClient, address)
  }

  async set(key: string, text: string, ttlMs: number): Promise<void> {
    const request = { key, value: Buffer.from(text), ttlMs }
    await callUnary(this.#client.announce.bind(this.#client), request, this.#options)
  }

  async remove(key: string): Promise<void> {
    await callUnary(this.#client.withdraw.bind(this.#client), { key }, this.#options)
  }

  async list(prefix: string): Promise<Map<string, string>> {
    const request = { prefix }
    const { announcements } = await callUnary(
      this.#client.listAnnouncements.bind(this.#client),
      request,
      this.#options,
    )
    return new Map(announcements.map(({ key, value }) => [key, value.toString()]))
  }

  async follow(prefix: string, signal: AbortSignal, sink: ChangeSink): Promise<void> {
    const { peer } = this.#options
    const method = this.#client.watchAnnouncements.bind(this.#client)
    let first: Map<string, string> | undefined = new Map()
    try {
      for await (const { announcement, gone } of callServerStream(method, { prefix }, { signal, peer })) {
        if (announcement === undefined) {
          this.#arrived()
          sink.snapshot(first ?? new Map())
          first = undefined
        } else if (first !== undefined) first.set(announcement.key, announcement.value.toString())
        else if (gone) sink.gone(announcement.key)
        else sink.announced(announcement.key, announcement.value.toString())
      }
    } catch (error) {
      this.#isAway = true
      if (signal.aborted) return
      throw error
    }
    if (!signal.aborted) throw fail('unavailable', `${peer} ended the watch`)
  }

  onReturn(callback: () => void): void {
    this.#returnCallbacks.push(callback)
  }

  async close(): Promise<void> {
    this.#client.close()
  }

  #arrived(): void {
    if (!this.#isAway) return
    this.#isAway = false
    for (const callback of this.#returnCallbacks) callback()
  }
}
