export { FORK_ALL, barrierKey } from './layer/barriers.ts'
export { BlockCache } from './layer/block-cache.ts'
export { ChainLedger } from './page/chain-ledger.ts'
export { NO_HISTORY, historyUpTo, horizonOf, noteHistory } from './compaction/history.ts'
export { mergeLayers } from './compaction/merge-layers.ts'
export { planCompaction } from './compaction/plan-compaction.ts'
export type { Level } from './compaction/plan-compaction.ts'
export type { Retention } from './compaction/retention.ts'
export { encodeImportBatch, readImportBatch } from './wal/import-batch.ts'
export type { ImportValue } from './wal/import-batch.ts'
export {
  PAGE_BEYOND_END,
  PAGE_FOUND,
  PAGE_NO_RELATION,
  PAGE_REQUESTS_COUNT_MAX,
  encodePageRequests,
  readPageRequests,
} from './page/page-request.ts'
export type { PageRequest } from './page/page-request.ts'
export { encodeIndexPart, generationOfIndexPart, indexPartName, parseIndexPart } from './layer/index-part.ts'
export type { ImageGenerationSettings, IndexPart, LayerEntry } from './layer/index-part.ts'
export { KeyTable } from './key/key-table.ts'
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
} from './key/key.ts'
export type { Key } from './key/key.ts'
export type { LayerFile, LayerSource } from './layer/layer-file.ts'
export { CHAIN_COUNT_MAX, LAYER_KIND_DELTA, LAYER_KIND_IMAGE, layerName } from './layer/layer-format.ts'
export type { LayerKind, LayerOwner } from './layer/layer-format.ts'
export { LayerMap, classRange, databaseRange } from './layer/layer-map.ts'
export type { KeyRange, ReadPlan } from './layer/layer-map.ts'
export { writeOpenLayer } from './layer/layer-writer.ts'
export type { WrittenLayer } from './layer/layer-writer.ts'
export type { Layer, ValueRef } from './layer/layer.ts'
export { openLayer } from './layer/open-layer-file.ts'
export { OpenLayer } from './layer/open-layer.ts'
export { PageJobWriter, applyValue, runPageJob } from './page/page-rebuild.ts'
export type { PageJobResult, PageValue, RebuildOutcome } from './page/page-rebuild.ts'
export { decodeOriginProgress, encodeOriginProgress, replicationOriginKey } from './key/replication-origin.ts'
export { homeShard, shardOfBlock, shardOfKey, shardOfSlruPage } from './key/shard.ts'
export {
  RECORD_KEY_BYTES,
  ROLE_BLOCK_IMAGE,
  ShardEntryReader,
  ShardStreamWriter,
  readShardEntries,
} from './wal/shard-stream.ts'
export type { ShardEntry } from './wal/shard-stream.ts'
export { ShardSplitter } from './wal/shard-splitter.ts'
export {
  META_IMAGE,
  META_IS_SHARED,
  META_TOMBSTONE,
  RECORD_PREFIX_BYTES,
  endsChain,
  isTombstone,
  metaOfRole,
} from './layer/value.ts'
