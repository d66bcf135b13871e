/** Places of multixacts and their members at the ends of their number spaces, where no server at hand ever gets. */
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { makeRecord } from '../../../test/made-record.ts'
import { PAGE_SIZE, pageOf } from '../../page/bufpage.ts'
import {
  RM_CLOG_ID,
  RM_COMMIT_TS_ID,
  RM_MULTIXACT_ID,
  RM_XLOG_ID,
  XLOG_PARAMETER_CHANGE,
} from '../../wal/constants.ts'
import type { PgMajor } from '../../wal/pages.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { recordEffects, redoSlru } from '../dispatch.ts'
import type { EffectSink, RedoSettings } from '../types.ts'
import { maxXidOf } from '../xact/parse.ts'
import { ParsedMultixact, parseMultixact } from './redo.ts'
import { XLOG_MULTIXACT_CREATE_ID, XLOG_MULTIXACT_TRUNCATE_ID } from './records.ts'

const settingsOf = (major: PgMajor): RedoSettings => ({
  major,
  dataChecksums: false,
  walLogHints: false,
  trackCommitTimestamp: true,
})
const settings = settingsOf(17)

const uint32s = (...values: number[]): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer)
const record = (rmid: number, info: number, main: Uint8Array): DecodedRecord =>
  makeRecord({ rmid, info, nextLsn: lsn(0x1000), xid: 9, main })

/** Which of the first 200 pages are removed, as ranges. */
function removedOf(isRemoved: (page: number) => boolean): string {
  const pages = Array.from({ length: 201 }, (_, page) => page < 200 && isRemoved(page))
  const ends = pages.flatMap((isGone, page) => (isGone === (pages[page - 1] ?? false) ? [] : [page]))
  return ends.join('-')
}

/** The effects of the record on SLRUs, one line a call. */
function effectsOf(made: DecodedRecord, of: RedoSettings = settings): string[] {
  const lines: string[] = []
  const sink: Partial<EffectSink> = {
    slruPage: (kind, page, init) => lines.push(`${kind} ${page}${init ? ' init' : ''}`),
    slruTruncate: (kind, isRemoved) => lines.push(`${kind} without ${removedOf(isRemoved)}`),
  }
  recordEffects(made, sink as EffectSink, of)
  return lines
}

test('the last multixact is followed by the first, and members wrap around', () => {
  // Three members from number 0xfffffffe on: the last two numbers and 0.
  const made = record(
    RM_MULTIXACT_ID,
    XLOG_MULTIXACT_CREATE_ID,
    uint32s(0xffff_ffff, 0xffff_fffe, 3, 100, 1, 101, 4, 4_000_000_000, 5),
  )
  const lastOffsets = Math.floor(0xffff_ffff / 2048)
  const lastMembers = Math.floor(0xffff_ffff / 1636)
  expect(effectsOf(made)).toEqual([
    `pg_multixact/offsets ${lastOffsets}`,
    'pg_multixact/offsets 0',
    `pg_multixact/members ${lastMembers}`,
    'pg_multixact/members 0',
  ])
  const offsets = pageOf(new Uint8Array(PAGE_SIZE))
  redoSlru(made, 'pg_multixact/offsets', lastOffsets, offsets, settings)
  expect(offsets.view.getUint32(2047 * 4, true)).toBe(0xffff_fffe)
  const first = pageOf(new Uint8Array(PAGE_SIZE))
  redoSlru(made, 'pg_multixact/offsets', 0, first, settings)
  // Multixact 0 does not exist; the end 0xfffffffe + 3 is 1.
  expect([first.view.getUint32(0, true), first.view.getUint32(4, true)]).toEqual([0, 1])
  const members = pageOf(new Uint8Array(PAGE_SIZE))
  redoSlru(made, 'pg_multixact/members', 0, members, settings)
  expect([members.bytes[0], members.view.getUint32(4, true)]).toEqual([5, 4_000_000_000])

  const parsed = new ParsedMultixact()
  parseMultixact(made, parsed)
  expect(parsed).toMatchObject({ kind: 'create', nextMulti: 1, nextOffset: 1 })
  // On the circle of xids 4,000,000,000 is before 9.
  expect(maxXidOf(made, 17)).toBe(101)
})

test('an end at member 0 is written as 1, because 0 means unknown', () => {
  const made = record(RM_MULTIXACT_ID, XLOG_MULTIXACT_CREATE_ID, uint32s(7, 0xffff_ffff, 1, 100, 1))
  const page = pageOf(new Uint8Array(PAGE_SIZE))
  redoSlru(made, 'pg_multixact/offsets', 0, page, settings)
  expect([page.view.getUint32(28, true), page.view.getUint32(32, true)]).toEqual([0xffff_ffff, 1])
})

test('truncation removes whole files only', () => {
  const multi = record(
    RM_MULTIXACT_ID,
    XLOG_MULTIXACT_TRUNCATE_ID,
    uint32s(5, 1, 65_536 * 3, 52_352 + 1, 52_352 * 3 + 1),
  )
  expect(effectsOf(multi)).toEqual([
    'pg_multixact/members without 32-96',
    'pg_multixact/offsets without 0-64',
  ])
  expect(effectsOf(record(RM_CLOG_ID, 0x10, uint32s(70, 0, 9, 1)))).toEqual(['pg_xact without 0-64'])
  // 16 has 32-bit page numbers.
  expect(effectsOf(record(RM_CLOG_ID, 0x10, uint32s(70, 9, 1)), settingsOf(16))).toEqual([
    'pg_xact without 0-64',
  ])
  expect(effectsOf(record(RM_COMMIT_TS_ID, 0x00, uint32s(3)), settingsOf(16))).toEqual([
    'pg_commit_ts 3 init',
  ])
  expect(() => effectsOf(record(RM_CLOG_ID, 0x00, uint32s(3)))).toThrow('main data is 4 bytes, not 8')
})

test('switching commit timestamps off removes them all', () => {
  const change = (track: number): DecodedRecord =>
    record(RM_XLOG_ID, XLOG_PARAMETER_CHANGE, new Uint8Array([...new Uint8Array(25), track, 0, 0]))
  expect(effectsOf(change(0))).toEqual(['pg_commit_ts without 0-200'])
  expect(effectsOf(change(1))).toEqual([])
  expect(effectsOf(change(0), { ...settings, trackCommitTimestamp: false })).toEqual([])
})
