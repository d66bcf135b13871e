/** Which pages of the SLRUs are live, by pg_control, and which of their entries. */
import type { ControlFileValues } from '@understory/postgres/cluster'
import { nextMultiXactOf, slruPageOf } from '@understory/postgres/cluster'
import { PAGE_SIZE } from '@understory/postgres/page'
import type { SlruKind } from '@understory/postgres/redo'

const OFFSETS_PER_PAGE = PAGE_SIZE / 4
/** Entries are numbered on circles of 2^32. */
const CIRCLE = 0x1_0000_0000

export interface SlruPlace {
  readonly kind: SlruKind
  readonly page: number
}

/**
 * Pages of the entries in `[from, to)`, round the circle; the page of `to` counts only if entries before it lie there.
 */
function* pagesOf(kind: SlruKind, from: number, to: number): Generator<SlruPlace, void, void> {
  if (from === to) return
  const last = slruPageOf(kind, (to + CIRCLE - 1) % CIRCLE)
  const pagesCount = slruPageOf(kind, CIRCLE - 1) + 1
  for (let page = slruPageOf(kind, from); ; page = (page + 1) % pagesCount) {
    yield { kind, page }
    if (page === last) return
  }
}

/** `readPage` reads the primary's: where members begin is in the offsets. */
export async function* livePages(
  { checkpoint, trackCommitTimestamp }: ControlFileValues,
  readPage: (kind: SlruKind, page: number) => Promise<Uint8Array | undefined>,
): AsyncGenerator<SlruPlace, void, void> {
  const nextXid = Number(checkpoint.nextXid % BigInt(CIRCLE))
  yield* pagesOf('pg_xact', checkpoint.oldestXid, nextXid)
  const { oldestMulti, nextMultiOffset, oldestCommitTsXid, newestCommitTsXid } = checkpoint
  const nextMulti = nextMultiXactOf(checkpoint)
  yield* pagesOf('pg_multixact/offsets', oldestMulti, nextMulti)
  if (oldestMulti !== nextMulti) {
    const page = await readPage('pg_multixact/offsets', slruPageOf('pg_multixact/offsets', oldestMulti))
    const at = (oldestMulti % OFFSETS_PER_PAGE) * 4
    // 0 is never the first member's offset.
    const oldestOffset =
      page === undefined ? 0 : new DataView(page.buffer, page.byteOffset).getUint32(at, true)
    yield* pagesOf('pg_multixact/members', oldestOffset, nextMultiOffset)
  }
  if (trackCommitTimestamp && oldestCommitTsXid !== 0 && newestCommitTsXid !== 0) {
    yield* pagesOf('pg_commit_ts', oldestCommitTsXid, (newestCommitTsXid + 1) % CIRCLE)
  }
}

/**
 * Clears the offsets outside of [oldestMulti, nextMulti): recent minor releases write the next one already when a
 * multixact is made (multixact.c RecordNewMultiXact), older ones do not.
 */
export function maskOffsets(bytes: Uint8Array, page: number, { checkpoint }: ControlFileValues): void {
  const { oldestMulti } = checkpoint
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  const live = (nextMultiXactOf(checkpoint) - oldestMulti + CIRCLE) % CIRCLE
  for (let i = 0; i < OFFSETS_PER_PAGE; i++) {
    const multi = page * OFFSETS_PER_PAGE + i
    // Multixact 0 does not exist: what is in its place means nothing (multixact.c TrimMultiXact).
    if (multi === 0 || (multi - oldestMulti + CIRCLE) % CIRCLE >= live) view.setUint32(i * 4, 0, true)
  }
}
