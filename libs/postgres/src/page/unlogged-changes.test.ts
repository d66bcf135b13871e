// Goal: what Postgres writes without a record is distinguished from damage: one other byte, and it is not that any
// more. Method: pages made by hand as Postgres makes them, with each byte of them changed in turn.
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { PAGE_SIZE, PageHeader, pageInit, pageOf, setPageLsn } from './bufpage.ts'
import { bloomMetapage, isReinitializedSpgistPage, isUnloggedBloomMetapage } from './unlogged-changes.ts'

const INNER = 0
const [LEAF, NULLS] = [4, 8]

function spgistPage(flags: number, at = lsn(0)): Uint8Array {
  const page = pageOf(new Uint8Array(PAGE_SIZE))
  pageInit(page, 8)
  setPageLsn(page, at)
  page.view.setUint16(PAGE_SIZE - 8, flags, true)
  page.view.setUint16(PAGE_SIZE - 2, 0xff82, true)
  return page.bytes
}

/** The offsets at which a changed byte makes no difference. */
function blindSpots(page: Uint8Array, isAccepted: (changed: Uint8Array) => boolean): number[] {
  return Array.from(page.keys()).filter((offset) => {
    const changed = Uint8Array.from(page)
    changed[offset] = (changed[offset] as number) ^ 0x10
    return isAccepted(changed)
  })
}
const CHECKSUM = [PageHeader.checksum.offset, PageHeader.checksum.offset + 1]

test.each([INNER, NULLS])('an SP-GiST page that was initialized without a record, flags %i', (flags) => {
  const primary = spgistPage(flags)
  for (const before of [INNER, LEAF | NULLS]) {
    const redone = spgistPage(before, lsn(0x300_0000))
    expect(isReinitializedSpgistPage(primary, redone)).toBe(true)
    expect(blindSpots(primary, (changed) => isReinitializedSpgistPage(changed, redone))).toEqual(CHECKSUM)
    const masked = blindSpots(redone, (changed) => isReinitializedSpgistPage(primary, changed))
    // pd_lsn, pd_checksum, pd_prune_xid and what lies between pd_lower and pd_upper, as in Postgres's own mask.
    expect(masked.filter((offset) => offset < 24)).toEqual([
      0,
      1,
      2,
      3,
      4,
      5,
      6,
      7,
      ...CHECKSUM,
      20,
      21,
      22,
      23,
    ])
    expect(masked.filter((offset) => offset >= 24 && offset < PAGE_SIZE - 8)).toHaveLength(PAGE_SIZE - 32)
    expect(masked.filter((offset) => offset >= PAGE_SIZE - 8)).toEqual([])
  }
  expect(isReinitializedSpgistPage(spgistPage(LEAF), spgistPage(LEAF, lsn(0x300_0000)))).toBe(false)
  expect(isReinitializedSpgistPage(primary, new Uint8Array(PAGE_SIZE))).toBe(false)
  const full = spgistPage(LEAF, lsn(0x300_0000))
  PageHeader.lower.set(new DataView(full.buffer), 0, 28)
  expect(isReinitializedSpgistPage(primary, full)).toBe(false)
})

test('the metapage of an unlogged bloom index, by its options', () => {
  const options = ['length=100', 'col1=3', 'col32=7']
  const view = new DataView(bloomMetapage(options).buffer)
  expect([view.getInt32(36, true), view.getInt32(40, true), view.getInt32(44, true)]).toEqual([7, 3, 2])
  expect(view.getInt32(40 + 31 * 4, true)).toBe(7)
  expect(new DataView(bloomMetapage([]).buffer).getInt32(36, true)).toBe(5)
  const primary = bloomMetapage(options)
  expect(isUnloggedBloomMetapage(primary, options)).toBe(true)
  expect(isUnloggedBloomMetapage(primary, ['length=100'])).toBe(false)
  expect(blindSpots(primary, (changed) => isUnloggedBloomMetapage(changed, options))).toEqual(CHECKSUM)
  expect(() => bloomMetapage(['fillfactor=90'])).toThrow('unknown option "fillfactor=90" of a bloom index')
})
