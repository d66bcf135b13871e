export {
  LP_DEAD,
  LP_NORMAL,
  LP_REDIRECT,
  LP_UNUSED,
  PD_ALL_VISIBLE,
  PD_HAS_FREE_LINES,
  PD_PAGE_FULL,
  PD_VALID_FLAG_BITS,
  PG_PAGE_LAYOUT_VERSION,
  PageHeader,
  SizeOfItemIdData,
  SizeOfPageHeaderData,
  PAGE_SIZE,
  getPageLsn,
  isPageHeaderSane,
  isPageNew,
  isZeroPage,
  pageInit,
  pageOf,
  setPageLsn,
} from './bufpage.ts'
export type { Page } from './bufpage.ts'
export { hasGistBuildLsn } from './gist-build-lsn.ts'
export { isPageChecksumRight, pageChecksum, stampPageChecksum } from './checksum.ts'
export {
  HEAPBLOCKS_PER_VM_PAGE,
  VISIBILITYMAP_ALL_FROZEN,
  VISIBILITYMAP_ALL_VISIBLE,
  VISIBILITYMAP_VALID_BITS,
  VISIBILITYMAP_XLOG_CATALOG_REL,
  vmBits,
  vmBlockOf,
  vmByteOf,
  vmShiftOf,
} from './visibility-map.ts'
export { bloomMetapage, isReinitializedSpgistPage, isUnloggedBloomMetapage } from './unlogged-changes.ts'
export { maskRelationPage } from './masks.ts'
export { pageKindOf } from './page-kind.ts'
export type { PageKind } from './page-kind.ts'
