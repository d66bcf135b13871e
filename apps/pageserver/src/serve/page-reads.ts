/** GetPages: pages at LSNs, rebuilt from the shard's layers, with their checksums. */
import { LSN_ZERO, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock } from '@understory/env'
import { PAGE_SIZE, stampPageChecksum } from '@understory/postgres/page'
import type { Page } from '@understory/postgres/page'
import {
  KEY_RELATION_BLOCK,
  PAGE_BEYOND_END,
  PAGE_FOUND,
  PAGE_NO_RELATION,
  formatKey,
  isPageKey,
  shardOfKey,
} from '@understory/storage'
import type { Key, PageRequest } from '@understory/storage'
import type { PageProbe, ReadsObserver } from '../telemetry/pageserver-observer.ts'
import type { ShardReader } from '../state/shard-reader.ts'
import type { LatencyHistogram } from '../telemetry/latency-histogram.ts'

/** How long a read waits for its LSN to be ingested. */
export const READ_DEADLINE_MS = 10_000

/** The part of a shard that reads need. */
export interface ReadableShard {
  readonly reader: ShardReader
  /** No read below. */
  readonly readableLsn: Lsn
  readonly latency: LatencyHistogram
  /** Resolves when everything before `at` is ingested. Errors: those of `ReadGate.pass`. */
  waitFor(at: Lsn, deadlineMs: number, signal?: AbortSignal): Promise<void>
}

/**
 * Fills `page`, which must be zeros. On a relation's home shard the status distinguishes a block beyond the end from a
 * relation that does not exist; another shard does not know sizes and gives zeros for what was never written.
 */
export async function readStampedPage(
  reader: ShardReader,
  key: Key,
  at: Lsn,
  page: Page,
  probe?: PageProbe,
): Promise<number> {
  const isRelation = key.keyClass === KEY_RELATION_BLOCK
  if (isRelation && reader.isHomeOf(key.rel)) {
    const blocks = await reader.readSize(key, at)
    if (blocks === undefined) return PAGE_NO_RELATION
    if (key.block >= blocks) return PAGE_BEYOND_END
  }
  const outcome = await reader.readPage(key, at, page, probe)
  if (outcome === 'absent') {
    throw fail('bad_page', `${formatKey(key)} is changed by WAL but was never made`, {
      hint: 'WAL or the base backup lacks a part of the relation; import a new base backup.',
    })
  }
  if (!isRelation) return outcome === 'none' ? PAGE_NO_RELATION : PAGE_FOUND
  if (reader.settings.dataChecksums) stampPageChecksum(page, key.block)
  return PAGE_FOUND
}

export interface PagesRead {
  readonly statuses: Buffer
  readonly pages: Buffer
}

/** Errors: `bad_argument` where a key is not a page, or not one of this shard's. */
function checkRequests({ owner }: ShardReader, requests: readonly PageRequest[]): Lsn {
  let newest = LSN_ZERO
  for (const { key, lsn } of requests) {
    if (!isPageKey(key)) throw fail('bad_argument', `${formatKey(key)} is not a page`)
    const number = shardOfKey(owner.shard, key)
    if (number !== owner.shard.number) {
      throw fail('bad_argument', `${formatKey(key)} is on shard ${number}, not on ${owner.shard.number}`)
    }
    if (lsn > newest) newest = lsn
  }
  return newest
}

export async function readPages(
  shard: ReadableShard,
  requests: readonly PageRequest[],
  clock: Clock,
  signal: AbortSignal,
  observer?: ReadsObserver,
): Promise<PagesRead> {
  const { reader, latency } = shard
  const startMs = clock.nowMs()
  const newest = checkRequests(reader, requests)
  if (requests.length > 0) await shard.waitFor(newest, READ_DEADLINE_MS, signal)
  observer?.waited()
  const waitedMs = clock.nowMs() - startMs
  const statuses = Buffer.alloc(requests.length)
  const buffer = new ArrayBuffer(requests.length * PAGE_SIZE)
  let found = 0
  for (const [i, { key, lsn }] of requests.entries()) {
    const beginMs = clock.nowMs()
    if (lsn < shard.readableLsn) await shard.waitFor(lsn, 0)
    const offset = found * PAGE_SIZE
    const page = {
      bytes: new Uint8Array(buffer, offset, PAGE_SIZE),
      view: new DataView(buffer, offset, PAGE_SIZE),
    }
    observer?.pageBegins(key)
    const status = await readStampedPage(reader, key, lsn, page, observer)
    observer?.pageEnded(status === PAGE_FOUND)
    statuses[i] = status
    if (status === PAGE_FOUND) found++
    else page.bytes.fill(0)
    // As if it had been asked for alone: pages before it in the request do not count.
    latency.add((waitedMs + clock.nowMs() - beginMs) * 1000)
  }
  return { statuses, pages: Buffer.from(buffer, 0, found * PAGE_SIZE) }
}
