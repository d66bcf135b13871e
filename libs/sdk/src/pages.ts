/** Pages of a timeline as they were at an LSN, straight from the shards that own them. */
import { formatLsn, isErrorCode, lsnFromBigint, maxLsn, present, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { PageStream, READ_PAGES_COUNT } from '@understory/protocol/page-client'
import { PageserverServiceClient } from '@understory/rpc'
import type { GetTimelineResponse } from '@understory/rpc'
import { blockKey, shardOfKey } from '@understory/storage'
import type { PageRequest } from '@understory/storage'
import { readOneOf, readOptions, readPosition, readWholeNumber } from './arguments.ts'
import type { GetPagesOptions, PageAddress } from './api.ts'
import type { Calls, Try } from './calls.ts'
import { joinSignals } from './signals.ts'
import { asLoss } from './trouble.ts'

/** pg_tablespace.dat: pg_default. */
const DEFAULT_TABLESPACE_OID = 1663
const FORKS = { main: 0, fsm: 1, vm: 2, init: 3 } as const satisfies Record<
  NonNullable<PageAddress['fork']>,
  number
>

/** A question to a shard, checked: the shard is known with the timeline. */
export interface PageQuestion {
  readonly key: PageRequest['key']
  readonly lsn: Lsn | undefined
}

/** Errors: `bad_argument` or `bad_lsn`. */
export function readQuestions(pages: readonly PageAddress[], { lsn }: GetPagesOptions): PageQuestion[] {
  if (!Array.isArray(pages))
    throw fail('bad_argument', 'pages is not a list', { hint: 'Give addresses of pages in an array.' })
  const at = lsn === undefined ? undefined : readPosition(lsn)
  return pages.map((page: PageAddress) => ({ key: keyOf(page), lsn: at }))
}

/**
 * In the order of `questions`: 8,192 bytes, or undefined where there is no such block then, or one that was never
 * written. (Shards distinguish zeros from the end of a relation only where they know its size.)
 */
export async function readPages(
  calls: Calls,
  view: GetTimelineResponse,
  questions: readonly PageQuestion[],
  {
    deadlineMs,
    signal,
    traceparent,
  }: Pick<Try, 'deadlineMs' | 'signal'> & Pick<GetPagesOptions, 'traceparent'>,
): Promise<(Buffer | undefined)[]> {
  const { spec, timeline } = view
  if (spec === undefined || timeline?.timeline === undefined || view.shards.length === 0) {
    throw fail('precondition', 'the timeline has no shards yet', {
      hint: 'Wait until its Postgres takes SQL.',
    })
  }
  const ref = timeline.timeline
  const layout = { count: view.shards.length, stripeBlocks: spec.stripeBlocks }
  const requests = questions.map(({ key, lsn }) => {
    const shard = present(shardOfKey(layout, key), 'shard of a block')
    return { key, shard, lsn: lsn ?? lsnFromBigint(view.shards[shard]?.ingestedLsn ?? 0n) }
  })
  const results: (Buffer | undefined)[] = Array.from({ length: questions.length })
  // Where one shard fails the others are not waited for.
  const failed = new AbortController()
  using joined = joinSignals(signal, failed.signal)
  await Promise.all(
    view.shards.map(async ({ address, number, ingestedLsn }) => {
      const own = [...requests.keys()].filter((i) => requests[i]?.shard === number)
      if (own.length === 0) return
      const client = calls.to(PageserverServiceClient, address)
      const call = { peer: `the pageserver at ${address}`, deadlineMs, signal: joined.signal }
      const stream = new PageStream({ client, timeline: ref, shard: { number, ...layout }, call })
      try {
        const batches = Array.from({ length: Math.ceil(own.length / READ_PAGES_COUNT) }, (_, i) =>
          own.slice(i * READ_PAGES_COUNT, (i + 1) * READ_PAGES_COUNT),
        )
        await Promise.all(
          batches.map(async (batch) => {
            const pages = await stream.read(
              batch.map((i) => requests[i] as PageRequest),
              traceparent,
            )
            for (const [j, i] of batch.entries()) results[i] = nonZero(pages[j])
          }),
        )
      } catch (error) {
        const loss = asLoss(error, { signal: joined.signal, peer: call.peer })
        failed.abort()
        throw notReached(
          loss,
          own.map((i) => requests[i] as PageRequest),
          lsnFromBigint(ingestedLsn),
        )
      } finally {
        stream.close()
      }
    }),
  )
  return results
}

/** A shard waits for WAL that is to come: where none came, the time that it took is not what went wrong. */
function notReached(error: unknown, asked: readonly PageRequest[], ingestedLsn: Lsn): unknown {
  const furthest = asked.reduce((lsn, request) => maxLsn(lsn, request.lsn), ingestedLsn)
  if (!isErrorCode(error, 'timeout') || furthest === ingestedLsn) return error
  return fail('timeout', `lsn ${formatLsn(furthest)} was not reached in time`, {
    detail: `the shard had ingested up to ${formatLsn(ingestedLsn)}`,
    hint: 'Ask for an LSN that Postgres has flushed, or give it more time.',
    cause: error,
  })
}

/** A copy of the page; undefined where it is all zeros, or not there. */
const nonZero = (page: Buffer | undefined): Buffer | undefined =>
  page?.some((byte) => byte !== 0) === true ? Buffer.from(page) : undefined

function keyOf(page: PageAddress): PageRequest['key'] {
  const {
    relation,
    database,
    tablespace = DEFAULT_TABLESPACE_OID,
    fork = 'main',
    block,
  } = readOptions('page', page)
  const forkNumber = FORKS[readOneOf('fork', fork, Object.keys(FORKS) as (keyof typeof FORKS)[])]
  return blockKey(
    readWholeNumber('tablespace', tablespace),
    readWholeNumber('database', database),
    readWholeNumber('relation', relation),
    forkNumber,
    readWholeNumber('block', block),
  )
}
