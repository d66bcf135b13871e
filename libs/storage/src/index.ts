export {
  PAGE_BEYOND_END, PAGE_FOUND, PAGE_NO_RELATION, encodeImportBatch, encodePageRequests, readImportBatch,
  readPageRequests,
} from './import-batch.ts'
export type { ImportValue, PageRequest } from './import-batch.ts'
export {
  KEY_BARRIER, KEY_BYTES, KEY_CHECKPOINT_STATE, KEY_CONTROL_FILE, KEY_DATABASE, KEY_RELATION_BLOCK, KEY_RELATION_MAP,
  KEY_RELATION_SIZE, KEY_SLRU_PAGE, KEY_TABLESPACE, KEY_TWO_PHASE, SLRU_KINDS, blockKey, compareKeys, formatKey,
  readKey, relationSizeKey, slruKey, slruKind, slruNumber, writeKey,
} from './key.ts'
export type { Key } from './key.ts'
export { homeShard, shardOfBlock, shardOfKey, shardOfSlruPage } from './shard.ts'
export {
  RECORD_HAS_EFFECTS, ROLE_BLOCK, ROLE_BLOCK_IMAGE, ROLE_BLOCK_INIT, ROLE_SLRU, ROLE_SLRU_INIT, ROLE_VISIBILITY_CLEAR,
  SHARD_STREAM_VERSION, ShardStreamWriter, readShardEntries,
} from './shard-stream.ts'
export type { RecordKey, ShardEntry } from './shard-stream.ts'
