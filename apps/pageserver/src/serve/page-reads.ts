/** GetPages: pages at LSNs, rebuilt from the shard's layers, with their checksums. */
import { refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock } from '@understory/env'
import { PAGE_SIZE, stampPageChecksum } from '@understory/postgres/page'
import {
  KEY_RELATION_BLOCK,
  KEY_SLRU_PAGE,
  PAGE_BEYOND_END,
  PAGE_FOUND,
  PAGE_NO_RELATION,
  formatKey,
  shardOfKey,
} from '@understory/storage'
import type { Key, PageRequest } from '@understory/storage'
import type { PageProbe, ReadsObserver } from '../telemetry/pageserver-observer.ts'
import type { RebuiltPage } from '../state/shard-state.ts'
import type { Shard } from '../shard/shard.ts'

/** How long a read waits for its LSN to be ingested. */
export const READ_DEADLINE_MS = 10_000

/**
 * Fills `page`, which must be zeros. On a relation's home shard the status tells a block beyond the end and a relation
 * that does not exist; another shard does not know sizes and gives zeros for what was never written.
 */
export async function readStampedPage(
  shard: Shard,
  key: Key,
  at: Lsn,
  page: RebuiltPage,
  probe?: PageProbe,
): Promise<number> {
  const { state } = shard
  const outcome = await state.readPage(key, at, page, probe)
  if (outcome === 'absent') {
    throw refuse('bad_page', `${formatKey(key)} is changed by WAL but was never made`, {
      hint: 'WAL or the base backup lacks a part of the relation; import a new base backup.',
    })
  }
  if (key.keyClass !== KEY_RELATION_BLOCK) return outcome === 'none' ? PAGE_NO_RELATION : PAGE_FOUND
  if (state.isHomeOf(key.rel)) {
    const blocks = await state.readSize(key, at)
    if (blocks === undefined) return PAGE_NO_RELATION
    if (key.block >= blocks) return PAGE_BEYOND_END
  }
  if (state.settings.dataChecksums) stampPageChecksum(page, key.block)
  return PAGE_FOUND
}

export interface PagesRead {
  readonly statuses: Buffer
  readonly pages: Buffer
}

export async function readPages(
  shard: Shard,
  requests: readonly PageRequest[],
  clock: Clock,
  signal: AbortSignal,
  observer?: ReadsObserver,
): Promise<PagesRead> {
  const startMs = clock.nowMs()
  let newest = 0 as Lsn
  for (const { key, lsn } of requests) {
    if (key.keyClass !== KEY_RELATION_BLOCK && key.keyClass !== KEY_SLRU_PAGE) {
      throw refuse('bad_argument', `${formatKey(key)} is not a page`)
    }
    const owner = shardOfKey(shard.owner.shard, key)
    if (owner !== shard.owner.shard.number) {
      throw refuse(
        'bad_argument',
        `${formatKey(key)} is on shard ${owner}, not on ${shard.owner.shard.number}`,
      )
    }
    if (lsn > newest) newest = lsn
  }
  if (requests.length > 0) await shard.waitFor(newest, READ_DEADLINE_MS, signal)
  observer?.waited()
  const statuses = Buffer.alloc(requests.length)
  const buffer = new ArrayBuffer(requests.length * PAGE_SIZE)
  let found = 0
  for (const [i, { key, lsn }] of requests.entries()) {
    if (lsn < shard.index.readableLsn) await shard.waitFor(lsn, 0)
    const offset = found * PAGE_SIZE
    const page = {
      bytes: new Uint8Array(buffer, offset, PAGE_SIZE),
      view: new DataView(buffer, offset, PAGE_SIZE),
    }
    observer?.pageBegins(key)
    const status = await readStampedPage(shard, key, lsn, page, observer)
    observer?.pageEnded(status === PAGE_FOUND)
    statuses[i] = status
    if (status === PAGE_FOUND) found++
    else page.bytes.fill(0)
    shard.latency.add((clock.nowMs() - startMs) * 1000)
  }
  return { statuses, pages: Buffer.from(buffer, 0, found * PAGE_SIZE) }
}
