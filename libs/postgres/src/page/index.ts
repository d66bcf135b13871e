export {
  LP_NORMAL,
  PD_ALL_VISIBLE,
  PageHeader,
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
export { isPageChecksumRight, stampPageChecksum } from './checksum.ts'
export { vmBits, vmBlockOf, vmByteOf, vmShiftOf } from './visibility-map.ts'
export { isReinitializedSpgistPage, isUnloggedBloomMetapage } from './unlogged-changes.ts'
export { maskRelationPage } from './masks.ts'
export { pageKindOf } from './page-kind.ts'
export type { PageKind } from './page-kind.ts'
