export { Barriers, FORK_ALL, barrierKey } from './barriers.ts'
export { BlockCache } from './block-cache.ts'
export { ChainLedger } from './chain-ledger.ts'
export type { ChainSummary } from './chain-ledger.ts'
export {
  PAGE_BEYOND_END,
  PAGE_FOUND,
  PAGE_NO_RELATION,
  PAGE_REQUESTS_COUNT_MAX,
  encodeImportBatch,
  encodePageRequests,
  readImportBatch,
  readPageRequests,
} from './import-batch.ts'
export type { ImportValue, PageRequest } from './import-batch.ts'
export { encodeIndexPart, generationOfIndexPart, indexPartName, parseIndexPart } from './index-part.ts'
export type { ImageGenerationSettings, IndexPart, LayerEntry } from './index-part.ts'
export { KeyTable } from './key-table.ts'
export type { Fork } from './key-table.ts'
export {
  CHECKPOINT_STATE_KEY,
  CONTROL_FILE_KEY,
  KEY_BARRIER,
  KEY_BYTES,
  KEY_CHECKPOINT_STATE,
  KEY_CONTROL_FILE,
  KEY_DATABASE,
  KEY_RELATION_BLOCK,
  KEY_RELATION_MAP,
  KEY_RELATION_SIZE,
  KEY_REPLICATION_ORIGIN,
  KEY_SLRU_PAGE,
  KEY_TABLESPACE,
  KEY_TWO_PHASE,
  REDO_SETTINGS_KEY,
  SLRU_KINDS,
  blockKey,
  compareKeys,
  formatKey,
  isPageKey,
  isStorageImaged,
  isStorageImagedAt,
  readKey,
  relationSizeBytes,
  relationSizeKey,
  slruKey,
  slruKind,
  slruNumber,
  smallKey,
  writeKey,
} from './key.ts'
export type { Key } from './key.ts'
export { openLayer } from './layer-file.ts'
export type { LayerFile, LayerSource } from './layer-file.ts'
export { LAYER_KIND_DELTA, LAYER_KIND_IMAGE, layerName } from './layer-format.ts'
export type { LayerKind, LayerOwner, LayerSummary } from './layer-format.ts'
export { LayerMap, PAUSE, classRange, databaseRange } from './layer-map.ts'
export type { KeyRange, ReadPlan, ValueRef } from './layer-map.ts'
export { LayerWriter, writeOpenLayer } from './layer-writer.ts'
export type { WrittenLayer } from './layer-writer.ts'
export type { Layer } from './layer.ts'
export { OpenLayer } from './open-layer.ts'
export { PageJobWriter, applyValue, runPageJob } from './page-rebuild.ts'
export type { PageJobResult, PageValue, RebuildOutcome } from './page-rebuild.ts'
export { decodeOriginProgress, encodeOriginProgress, replicationOriginKey } from './replication-origin.ts'
export { homeShard, shardOfBlock, shardOfKey, shardOfSlruPage } from './shard.ts'
export {
  RECORD_HAS_EFFECTS,
  RECORD_KEY_BYTES,
  ROLE_BLOCK,
  ROLE_BLOCK_IMAGE,
  ROLE_BLOCK_INIT,
  ROLE_SLRU,
  ROLE_SLRU_INIT,
  ROLE_VISIBILITY_CLEAR,
  ShardEntryReader,
  ShardStreamWriter,
  readShardEntries,
} from './shard-stream.ts'
export type { RecordKey, ShardEntry } from './shard-stream.ts'
export { EFFECT_AUDIENCE, TRACKER_NEEDS } from './split/audience.ts'
export type { Audience, TrackerNeed } from './split/audience.ts'
export { ShardSplitter } from './split/shard-splitter.ts'
export {
  META_ENDS_CHAIN,
  META_IMAGE,
  META_IS_SHARED,
  META_KIND,
  META_TOMBSTONE,
  RECORD_PREFIX_BYTES,
  VALUE_IMAGE,
  VALUE_TOMBSTONE,
  endsChain,
  isImage,
  isRecord,
  isTombstone,
  metaOfRole,
} from './value.ts'
