/** Which access method a page belongs to. Source: the special spaces of each, storage/bufpage.h (16, 17, 18). */
import { PAGE_SIZE, getPageSpecial } from './bufpage.ts'
import type { Page } from './bufpage.ts'

/**
 * The kinds of pages; visibility maps and free-space maps are masked as `heap`, which hides their
 * content.
 */
export type PageKind = 'heap' | 'btree' | 'hash' | 'gin' | 'gist' | 'spgist' | 'brin' | 'sequence' | 'generic'

const SEQ_MAGIC = 0x1717
const MAX_BT_CYCLE_ID = 0xff7f
/** Page ids of the access methods whose special space has as many bytes as btree's, in their last two bytes. */
const KIND_OF_ID: Readonly<Record<number, PageKind>> = {
  0xff80: 'hash',
  0xff81: 'gist',
  0xff82: 'spgist',
  0xf091: 'brin',
  0xf092: 'brin',
  0xf093: 'brin',
}

/** The kind of a page, read from its special space: records such as FPI do not say. */
export function pageKindOf(page: Page): PageKind {
  const special = getPageSpecial(page)
  const id = page.view.getUint16(PAGE_SIZE - 2, true)
  if (special === PAGE_SIZE - 16) return id <= MAX_BT_CYCLE_ID ? 'btree' : (KIND_OF_ID[id] ?? 'generic')
  if (special === PAGE_SIZE - 8) {
    return page.view.getUint32(special, true) === SEQ_MAGIC ? 'sequence' : (KIND_OF_ID[id] ?? 'gin')
  }
  return special === PAGE_SIZE ? 'heap' : 'generic'
}
