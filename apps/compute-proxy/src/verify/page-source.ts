/**
 * Pages from the shards: one GetPages stream a shard, several batches under way on each, answers in order. A page that
 * storage cannot give is an answer too, so that damage is found page by page.
 */
import {
  LSN_ZERO,
  describeError,
  formatLsn,
  isErrorCode,
  lsnFromBigint,
  present,
  fail,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import { realClock, realRng, retry } from '@understory/env'
import { pageserverClient } from '@understory/protocol/clients'
import type { PageserverClient } from '@understory/protocol/clients'
import { PageStream, READ_PAGES_COUNT } from '@understory/protocol/page-client'
import { PageserverServiceClient, createClient } from '@understory/rpc'
import { shardOfKey } from '@understory/storage'
import type { PageRequest } from '@understory/storage'
import type { VerifyOptions } from './options.ts'

const ATTEMPTS = 12
/** A shard that does not move for so long is not waited for. */
const INGEST_PATIENCE_MS = 60_000
const INGEST_POLL_MS = 20

/** A page, `absent` where storage has none, or why it cannot be read. */
export type StoredPage =
  | { readonly kind: 'page'; readonly bytes: Uint8Array }
  | { readonly kind: 'absent' }
  | { readonly kind: 'unreadable'; readonly reason: string }

const ABSENT: StoredPage = { kind: 'absent' }

export class PageSource implements Disposable {
  readonly #options: VerifyOptions
  readonly #shards: ShardPages[]
  readonly #layout: { readonly count: number; readonly stripeBlocks: number }

  constructor(options: VerifyOptions) {
    this.#options = options
    this.#layout = { count: options.pageservers.length, stripeBlocks: options.stripeBlocks }
    this.#shards = options.pageservers.map((address, number) => new ShardPages(options, number, address))
  }

  /** In the order of the requests. */
  async read(requests: readonly PageRequest[]): Promise<StoredPage[]> {
    const results = Array.from<StoredPage>({ length: requests.length })
    const indexes = this.#shards.map((): number[] => [])
    for (const [i, { key }] of requests.entries()) {
      present(indexes[present(shardOfKey(this.#layout, key), 'shard of a page')], 'shard').push(i)
    }
    const jobs: Promise<void>[] = []
    for (const [number, own] of indexes.entries()) {
      for (let at = 0; at < own.length; at += READ_PAGES_COUNT) {
        const part = own.slice(at, at + READ_PAGES_COUNT)
        jobs.push(
          this.#readPart(
            present(this.#shards[number], 'shard'),
            part.map((i) => requests[i] as PageRequest),
          ).then((pages) => {
            for (const [j, i] of part.entries()) results[i] = pages[j] as StoredPage
          }),
        )
      }
    }
    await Promise.all(jobs)
    return results
  }

  /**
   * Waits until every shard has taken in WAL up to `at`: after a bulk load storage may be behind by more than a read
   * waits. Errors: `unavailable` where a shard has stopped, `timeout` where it gets no further.
   */
  async waitFor(at: Lsn): Promise<void> {
    await Promise.all(this.#shards.map((shard) => shard.waitFor(at)))
  }

  async #readPart(shard: ShardPages, requests: readonly PageRequest[]): Promise<StoredPage[]> {
    const { signal } = this.#options
    try {
      const retryOptions = { attemptsMax: ATTEMPTS, signal }
      return await retry({ clock: realClock, rng: realRng }, retryOptions, () => shard.read(requests))
    } catch (error) {
      const isDamage =
        isErrorCode(error, 'bad_page') || isErrorCode(error, 'bad_file') || isErrorCode(error, 'bad_wal')
      if (!isDamage) throw error
      const [first] = requests
      if (requests.length === 1 && first !== undefined)
        return [{ kind: 'unreadable', reason: describeError(error) }]
      const half = requests.length >> 1
      const parts = [requests.slice(0, half), requests.slice(half)]
      const pages: StoredPage[] = []
      for (const part of parts) pages.push(...(await this.#readPart(shard, part)))
      return pages
    }
  }

  [Symbol.dispose](): void {
    for (const shard of this.#shards) shard.close()
  }
}

class ShardPages {
  readonly #options: VerifyOptions
  readonly #number: number
  readonly #address: string
  readonly #pageserver: PageserverClient
  readonly #client: PageserverServiceClient
  readonly #stream: PageStream

  constructor(options: VerifyOptions, number: number, address: string) {
    const { rpc, timeline, pageservers, stripeBlocks, signal } = options
    this.#options = options
    this.#number = number
    this.#address = address
    this.#pageserver = pageserverClient(rpc, address)
    this.#client = createClient(rpc, PageserverServiceClient, address)
    this.#stream = new PageStream({
      client: this.#client,
      timeline,
      shard: { number, count: pageservers.length, stripeBlocks },
      call: { signal, peer: `pageserver ${address}` },
    })
  }

  async read(requests: readonly PageRequest[]): Promise<StoredPage[]> {
    const span = this.#options.traces?.root('page read', {
      kind: 'client',
      attributes: { pages: requests.length, shard: String(this.#number) },
    })
    const pages = await this.#stream.read(requests, span?.traceparent).finally(() => span?.end())
    return pages.map((bytes) => (bytes === undefined ? ABSENT : { kind: 'page', bytes }))
  }

  async waitFor(at: Lsn): Promise<void> {
    const { signal, timeline } = this.#options
    let ingestedLsn = LSN_ZERO
    let movedAtMs = realClock.nowMs()
    for (;;) {
      const shards = await retry({ clock: realClock, rng: realRng }, { signal }, () =>
        this.#pageserver.shards(timeline, { signal }),
      )
      const own = shards.find(({ shard }) => shard?.number === this.#number)
      if (own !== undefined && own.failure !== '')
        throw fail('unavailable', `shard ${this.#number} does not serve: ${own.failure}`)
      // A pageserver that lost its disk gets its shards back a moment later.
      const now = own === undefined ? LSN_ZERO : lsnFromBigint(own.ingestedLsn)
      if (now >= at) return
      if (now > ingestedLsn) movedAtMs = realClock.nowMs()
      ingestedLsn = now
      if (realClock.nowMs() - movedAtMs > INGEST_PATIENCE_MS) {
        throw fail(
          'timeout',
          own === undefined
            ? `pageserver ${this.#address} does not have shard ${this.#number}`
            : `shard ${this.#number} stands at ${formatLsn(now)} and does not get to ${formatLsn(at)}`,
        )
      }
      await realClock.sleep(INGEST_POLL_MS, signal)
    }
  }

  close(): void {
    this.#stream.close()
    this.#client.close()
    this.#pageserver.close()
  }
}
