export { CHECKPOINT_BYTES } from './version.ts'
export { clusterVersions } from './versions.ts'
export { encodeCheckPoint, nextMultiXactOf, readCheckPoint } from './checkpoint.ts'
export type { CheckPointValues } from './checkpoint.ts'
export {
  CONTROL_FILE_BYTES,
  CONTROL_FILE_PATH,
  DB_SHUTDOWNED,
  DB_SHUTDOWNED_IN_RECOVERY,
  parseControlFile,
  patchControlFile,
} from './control-file.ts'
export type { ControlFileValues } from './control-file.ts'
export { track, trackerStateOf, xidNote } from './checkpoint-tracker.ts'
export type { TrackerState } from './checkpoint-tracker.ts'
export { decodeTrackerState, encodeTrackerState } from './tracker-codec.ts'
export { forgeShutdownCheckpoint, forgedControlFile, segmentsForStart } from './forged-start.ts'
export type { ForgedCheckpoint } from './forged-start.ts'
export {
  SLRU_PAGES_PER_SEGMENT,
  SLRU_SEGMENT_BYTES,
  parseSlruSegmentPath,
  slruPageOf,
  slruSegmentOf,
  slruSegmentPath,
} from './slru.ts'
export {
  DEFAULTTABLESPACE_OID,
  GLOBALTABLESPACE_OID,
  RELATION_SEGMENT_BLOCKS,
  databasePath,
  parseDatabasePath,
  parseRelationPath,
  relationPath,
  tablespaceVersionDirectory,
} from './relation-path.ts'
export type { ParsedRelationPath } from './relation-path.ts'
export {
  RELMAP_NAME,
  dataDirectoriesOf,
  parseRelmap,
  parseTwoPhaseName,
  relmapPath,
  twoPhasePath,
} from './other-files.ts'
export {
  ORIGIN_CHECKPOINT_PATH,
  encodeOriginCheckpoint,
  parseOriginCheckpoint,
} from './replication-origins.ts'
export { describeIdentity, isPostgresMajor, isSameIdentity, readPostgresMajor } from './identity.ts'
export type { PostgresIdentity } from './identity.ts'
