/**
 * The entrances to redo: finds the resource manager of a record, and deals with what is the same for all of them:
 * images, pages that are new enough, pages that were never made, and errors that name the record.
 *
 * Source: access/transam/xlogutils.c, XLogReadBufferForRedoExtended (16, 17, 18 alike).
 */
import { UnderstoryError, assert, formatLsn, fail } from '@understory/base'
import { getPageLsn, isPageNew, setPageLsn } from '../page/bufpage.ts'
import type { Page } from '../page/bufpage.ts'
import { XLR_RMGR_INFO_MASK } from '../wal/constants.ts'
import { restoreBlockImage } from '../wal/block-image.ts'
import { FORK_VM } from '../wal/record.ts'
import type { BlockRef, DecodedRecord } from '../wal/record.ts'
import { rmgrs } from './registry.ts'
import type { EffectSink, RedoSettings, Rmgr, SlruKind } from './types.ts'

/**
 * The outcome for a page.
 *   redone    the resource manager's redo ran
 *   restored  the page is now the image in the record
 *   newer     nothing: the page has this record already
 *   absent    nothing: the page was never made. Stock recovery notes this and ends with a PANIC unless the relation is
 *             dropped or cut off later in the WAL, so it is right only for a page that is never asked for
 */
export type RedoOutcome = 'redone' | 'restored' | 'newer' | 'absent'

const findRmgr = (rmid: number): Rmgr | undefined => (rmgrs as Readonly<Partial<Record<number, Rmgr>>>)[rmid]

/** As `pg_waldump --stats=record` names it, such as `Heap/INSERT+INIT`; numbers for what is not known. */
export function recordTypeName(record: DecodedRecord, settings: RedoSettings): string {
  const rmgr = findRmgr(record.rmid)
  const info = record.info & XLR_RMGR_INFO_MASK
  return `${rmgr?.name ?? `custom${record.rmid}`}/${rmgr?.identify(record.info, settings) ?? `UNKNOWN (${info.toString(16)})`}`
}

/** Refused `unknown_wal` unless the record is one that we know. */
function knownRmgr(record: DecodedRecord, settings: RedoSettings): Rmgr {
  const rmgr = findRmgr(record.rmid)
  if (rmgr === undefined || rmgr.identify(record.info, settings) === undefined) {
    throw fail(
      'unknown_wal',
      `unknown WAL record ${recordTypeName(record, settings)} at ${formatLsn(record.recordLsn)}`,
      {
        hint: `PostgreSQL ${settings.major} itself does not write it: an extension with its own resource manager does.`,
      },
    )
  }
  return rmgr
}

function refuseUnsupported(record: DecodedRecord, settings: RedoSettings): UnderstoryError {
  const type = recordTypeName(record, settings)
  return fail('unknown_wal', `WAL record ${type} at ${formatLsn(record.recordLsn)} cannot be redone`, {
    hint: 'No known version changes pages by such a record: is the server a modified one?',
  })
}

function describeBlock(ref: BlockRef): string {
  const { blockId, spcOid, dbOid, relNumber, fork, blockNumber } = ref
  return `block ${blockId} (relation ${spcOid}/${dbOid}/${relNumber}, fork ${fork}, block ${blockNumber})`
}

/** Adds the record's position and type to an error of a redo function. A `BugError` passes as it is. */
function explain(error: unknown, record: DecodedRecord, settings: RedoSettings, where: string): unknown {
  // DataView refuses to read beyond the record or the page with a RangeError.
  const found =
    error instanceof UnderstoryError ? error.code : error instanceof RangeError ? 'bad_wal' : undefined
  if (found === undefined) return error
  // An LSN beyond 2^53 among the record's data is not a wrong argument of the caller of redo.
  const code = found === 'bad_lsn' ? 'bad_wal' : found
  const type = recordTypeName(record, settings)
  const reason = (error as Error).message
  return fail(
    code,
    `could not redo WAL record ${type} at ${formatLsn(record.recordLsn)} on ${where}: ${reason}`,
    {
      cause: error,
    },
  )
}

/**
 * Applies to `page` what the record says about its block `blockIndex`. A page that does not exist is 8,192 zeros.
 *
 * An image is applied whatever the page's LSN: a page torn by a crash or by a base backup can look newer than it is,
 * and only the image heals it. Redo of later records then goes over the page again, as in stock recovery.
 */
export function redoRecordOnPage(
  record: DecodedRecord,
  blockIndex: number,
  page: Page,
  settings: RedoSettings,
): RedoOutcome {
  const ref = record.blocks[blockIndex] as BlockRef
  try {
    if (ref.applyImage) {
      restoreBlockImage(record, ref, page.bytes)
      // An image of a page never initialized stays one.
      if (!isPageNew(page)) setPageLsn(page, record.nextLsn)
      findRmgr(record.rmid)?.redoRestored?.(record, blockIndex, page)
      return 'restored'
    }
    if (!ref.willInit) {
      // Only the visibility map is read so that a missing page is an empty one.
      if (isPageNew(page)) {
        if (ref.fork !== FORK_VM) return 'absent'
      } else if (getPageLsn(page) >= record.nextLsn) {
        return 'newer'
      }
    }
    const rmgr = knownRmgr(record, settings)
    if (rmgr.redoBlock === undefined) throw refuseUnsupported(record, settings)
    const before = getPageLsn(page)
    rmgr.redoBlock(record, blockIndex, page, settings)
    const after = getPageLsn(page)
    assert(
      after === record.nextLsn || after === before,
      () =>
        `I6: redo of the record at ${formatLsn(record.recordLsn)} left a page with LSN ${formatLsn(after)}`,
    )
    return 'redone'
  } catch (error) {
    throw explain(error, record, settings, describeBlock(ref))
  }
}

/**
 * Reports to `sink` everything that the record does beyond its registered blocks. Called once for every record that
 * comes in, so that it is also the place where a record that redo does not know stops the timeline.
 */
export function recordEffects(record: DecodedRecord, sink: EffectSink, settings: RedoSettings): void {
  const rmgr = knownRmgr(record, settings)
  if (rmgr.redoBlock === undefined) {
    for (let i = 0; i < record.blockCount; i++) {
      if (!(record.blocks[i] as BlockRef).applyImage) throw refuseUnsupported(record, settings)
    }
  }
  if (rmgr.effects === undefined) return
  try {
    rmgr.effects(record, sink, settings)
  } catch (error) {
    throw explain(error, record, settings, 'what it does beyond its blocks')
  }
}

/** Applies the record to one SLRU page that `recordEffects` reported; `page` is zeros where `init` was reported. */
export function redoSlru(
  record: DecodedRecord,
  kind: SlruKind,
  slruPage: number,
  page: Page,
  settings: RedoSettings,
): void {
  const rmgr = knownRmgr(record, settings)
  if (rmgr.redoSlru === undefined) throw refuseUnsupported(record, settings)
  try {
    rmgr.redoSlru(record, kind, slruPage, page, settings)
  } catch (error) {
    throw explain(error, record, settings, `page ${slruPage} of ${kind}`)
  }
}
