export { recordEffects, recordTypeName, redoRecordOnPage, redoSlru } from './dispatch.ts'
export type { RedoOutcome } from './dispatch.ts'
export {
  HEAPBLOCKS_PER_PAGE, VISIBILITYMAP_ALL_FROZEN, VISIBILITYMAP_ALL_VISIBLE, VISIBILITYMAP_VALID_BITS, mapBlockOf,
  redoVisibilityClear, visibilityBits,
} from './heap/visibility.ts'
export { getPageLsn, isPageNew, pageInit, pageOf, setPageLsn } from './page-edit.ts'
export { rmgrs } from './registry.ts'
export type { RmgrId } from './registry.ts'
export type { EffectSink, Page, PgMajor, RedoPosition, RedoSettings, Rmgr, SlruKind } from './types.ts'
