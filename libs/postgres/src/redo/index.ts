export { recordEffects, recordTypeName, redoRecordOnPage, redoSlru } from './dispatch.ts'
export type { RedoOutcome } from './dispatch.ts'
export { redoVisibilityClear } from './heap/visibility.ts'
export { rmgrs } from './registry.ts'
export type { RmgrId } from './registry.ts'
export type { EffectSink, RedoPosition, RedoSettings, Rmgr, SlruKind } from './types.ts'
export type { RemovedPages } from './slru-truncation.ts'
export { clogOldestXid } from './clog/redo.ts'
export { ParsedMultixact, parseMultixact } from './multixact/redo.ts'
export {
  ParsedXact,
  changesCatalog,
  gidOf,
  maxXidOf,
  parseXact,
  relFileAt,
  subxactAt,
  xactTimeOf,
  xidPrecedes,
} from './xact/parse.ts'
export { NOTHING_OF_XACT, eachXactPage, encodeXactPart } from './xact/part.ts'
export type { XactRange } from './xact/part.ts'
export { isXactCommit, isXactEnd } from './xact/redo.ts'
export { moveOrigin } from './replorigin/redo.ts'
export { fullPageWritesOf, nextOidOf, parameterChangeOf } from './xlog/redo.ts'
export type { ParameterChange } from './xlog/redo.ts'
