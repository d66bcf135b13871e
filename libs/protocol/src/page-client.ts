/**
 * Pages of one shard: a GetPages stream on which several reads may be under way, answered in order. A stream that
 * breaks is opened again by the next read.
 */
import { UnderstoryError, fail } from '@understory/base'
import { PAGE_SIZE } from '@understory/postgres/page'
import { openBidi } from '@understory/rpc'
import type {
  BidiStream,
  CallOptions,
  GetPagesRequest,
  GetPagesResponse,
  PageserverServiceClient,
  ShardRef,
  TimelineRef,
} from '@understory/rpc'
import { PAGE_FOUND, encodePageRequests } from '@understory/storage'
import type { PageRequest } from '@understory/storage'

export { PAGE_SIZE }

/** A message of so many is large enough to be cheap, and small enough to be answered soon. */
export const READ_PAGES_COUNT = 128

interface Waiting {
  readonly resolve: (response: GetPagesResponse) => void
  readonly reject: (error: unknown) => void
}

export interface PageStreamOptions {
  readonly client: PageserverServiceClient
  readonly timeline: TimelineRef
  readonly shard: ShardRef
  /** `peer` names the pageserver in errors; a deadline is that of the whole stream. */
  readonly call: CallOptions & { readonly peer: string }
}

export class PageStream {
  readonly #options: PageStreamOptions
  #stream: BidiStream<GetPagesRequest, GetPagesResponse> | undefined
  #waiting: Waiting[] = []

  constructor(options: PageStreamOptions) {
    this.#options = options
  }

  /**
   * In the order of the requests, of which there are at most 4,000: 8,192 bytes that borrow from the answer, or
   * undefined where there is no such block, or no such relation, at that LSN. Where the stream breaks, the read that it
   * was about to answer fails with the reason and those behind it with `unavailable`.
   */
  async read(
    requests: readonly PageRequest[],
    traceparent?: string,
  ): Promise<readonly (Buffer | undefined)[]> {
    const { statuses, pages } = await this.#ask(encodePageRequests(requests), traceparent)
    if (statuses.length !== requests.length) {
      const { peer } = this.#options.call
      throw fail('bad_page', `${peer} answered ${statuses.length} pages, not ${requests.length}`)
    }
    let found = 0
    return requests.map((_, i) => {
      if (statuses[i] !== PAGE_FOUND) return undefined
      const at = found++ * PAGE_SIZE
      return pages.subarray(at, at + PAGE_SIZE)
    })
  }

  close(): void {
    this.#stream?.cancel()
  }

  #ask(requests: Buffer, traceparent: string | undefined): Promise<GetPagesResponse> {
    const stream = (this.#stream ??= this.#open())
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      const { timeline, shard } = this.#options
      // A stream that breaks rejects all that wait for it.
      stream.send({ timeline, shard, requests, traceparent }).catch(() => undefined)
    })
  }

  #open(): BidiStream<GetPagesRequest, GetPagesResponse> {
    const { client, call } = this.#options
    const stream = openBidi<GetPagesRequest, GetPagesResponse>(client.getPages.bind(client), call)
    const follow = async (): Promise<never> => {
      for await (const response of stream.messages) this.#waiting.shift()?.resolve(response)
      throw fail('unavailable', `${call.peer} ended the stream of pages`)
    }
    void follow().catch((error: unknown) => this.#break(error))
    return stream
  }

  #break(error: unknown): void {
    this.#stream = undefined
    const [first, ...rest] = this.#waiting.splice(0)
    first?.reject(error)
    const shared =
      error instanceof UnderstoryError
        ? fail('unavailable', 'the stream of pages broke', { cause: error })
        : error
    for (const { reject } of rest) reject(shared)
  }
}
