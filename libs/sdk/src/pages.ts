/** Pages of a timeline as they were at an LSN, straight from the shards that own them. */
import { formatLsn, lsnFromBigint, parseLsn, present, refuse } from '@understory/base'
import { PageserverServiceClient, createClient, openBidi } from '@understory/rpc'
import type {
  CallOptions,
  ClientSecurity,
  GetPagesRequest,
  GetPagesResponse,
  GetTimelineResponse,
} from '@understory/rpc'
import { PAGE_FOUND, blockKey, encodePageRequests, shardOfKey } from '@understory/storage'
import type { PageRequest } from '@understory/storage'

const PAGE_BYTES = 8192
/** Pages of one message. */
const BATCH_PAGES = 128
/** pg_tablespace.dat: pg_default. */
const DEFAULT_TABLESPACE_OID = 1663
const FORKS = { main: 0, fsm: 1, vm: 2, init: 3 } as const

/** A block of a relation, by the numbers that `pg_relation_filepath` shows: base/DATABASE/RELATION. */
export interface PageAddress {
  /** pg_class.relfilenode as `pg_relation_filenode(…)` gives it, not the oid. */
  readonly relation: number
  /** Oid of the database; 0 for relations that all databases share. */
  readonly database: number
  /** Oid of the tablespace; pg_default's by default. */
  readonly tablespace?: number
  readonly fork?: keyof typeof FORKS
  readonly block: number
}

export interface GetPagesOptions {
  /** Name or id; `main` by default. */
  readonly timeline?: string
  /** Where in the WAL, such as `0/3A000148`; what the shards have ingested by default. A shard waits for WAL to come. */
  readonly lsn?: string
  readonly deadlineMs?: number
  readonly signal?: AbortSignal
  /** W3C trace context of the caller's span: where the pageserver sends traces, its part joins that one. */
  readonly traceparent?: string
}

/**
 * In the order of `pages`: 8,192 bytes, or undefined where there is no such block then, or one that was never written.
 * (Shards tell zeros from the end of a relation only where they know its size.)
 */
export async function readPages(
  view: GetTimelineResponse,
  pages: readonly PageAddress[],
  options: GetPagesOptions,
  security: ClientSecurity | undefined,
): Promise<(Buffer | undefined)[]> {
  const { spec, timeline } = view
  if (spec === undefined || timeline?.timeline === undefined || view.shards.length === 0) {
    throw refuse('precondition', 'the timeline has no shards yet', {
      hint: 'Wait until its Postgres takes SQL.',
    })
  }
  const layout = { count: view.shards.length, stripeBlocks: spec.stripeBlocks }
  const asked = options.lsn === undefined ? undefined : parseLsn(options.lsn)
  const requests = pages.map((page): PageRequest & { readonly shard: number } => {
    const key = keyOf(page)
    const shard = present(shardOfKey(layout, key), 'shard of a block')
    return { key, shard, lsn: asked ?? lsnFromBigint(view.shards[shard]?.ingestedLsn ?? 0n) }
  })
  const results: (Buffer | undefined)[] = Array.from({ length: pages.length })
  await Promise.all(
    view.shards.map(async ({ address, number }) => {
      const own = [...requests.keys()].filter((i) => requests[i]?.shard === number)
      if (own.length === 0) return
      const client = createClient(PageserverServiceClient, address, security)
      const call: CallOptions = {
        peer: `the pageserver at ${address}`,
        deadlineMs: options.deadlineMs ?? 30_000,
        signal: options.signal,
      }
      const stream = openBidi<GetPagesRequest, GetPagesResponse>(client.getPages.bind(client), call)
      try {
        const batches = Array.from({ length: Math.ceil(own.length / BATCH_PAGES) }, (_, i) =>
          own.slice(i * BATCH_PAGES, (i + 1) * BATCH_PAGES),
        )
        for (const batch of batches) {
          const encoded = encodePageRequests(batch.map((i) => requests[i] as PageRequest))
          // Where it breaks, the answers say so.
          stream
            .send({
              timeline: timeline.timeline,
              shard: { number, ...layout },
              requests: encoded,
              traceparent: options.traceparent,
            })
            .catch(() => undefined)
        }
        for (const batch of batches) {
          const { done, value } = await stream.messages.next()
          if (done === true)
            throw refuse('unavailable', `the pageserver at ${address} ended the stream of pages`)
          takeAnswer(value, batch, results)
        }
      } finally {
        stream.cancel()
        client.close()
      }
    }),
  )
  return results
}

function takeAnswer(
  { statuses, pages }: GetPagesResponse,
  batch: readonly number[],
  results: (Buffer | undefined)[],
): void {
  let found = 0
  for (const [j, i] of batch.entries()) {
    if (statuses[j] !== PAGE_FOUND) continue
    const at = found++ * PAGE_BYTES
    const page = Buffer.from(pages.subarray(at, at + PAGE_BYTES))
    if (page.some((byte) => byte !== 0)) results[i] = page
  }
}

function keyOf({ relation, database, tablespace, fork = 'main', block }: PageAddress) {
  const numbers = { relation, database, block, tablespace: tablespace ?? DEFAULT_TABLESPACE_OID }
  for (const [name, value] of Object.entries(numbers)) {
    if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff)
      throw refuse('bad_argument', `${name} ${value} of a page is not a number from 0 to 4294967295`)
  }
  if (!(fork in FORKS)) {
    throw refuse('bad_argument', `there is no fork "${String(fork)}"`, { hint: 'Use main, fsm, vm or init.' })
  }
  return blockKey(numbers.tablespace, database, relation, FORKS[fork], block)
}

/** pd_lsn of a page: where the last change of it ends. Source: storage/bufpage.h, PageHeaderData. */
export function pageLsn(page: Uint8Array): string {
  if (page.length !== PAGE_BYTES)
    throw refuse('bad_argument', `a page has ${PAGE_BYTES} bytes, not ${page.length}`)
  const view = new DataView(page.buffer, page.byteOffset, page.length)
  return formatLsn(lsnFromBigint((BigInt(view.getUint32(0, true)) << 32n) | BigInt(view.getUint32(4, true))))
}
