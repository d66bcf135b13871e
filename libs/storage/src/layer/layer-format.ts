/**
 * Layer file, version 2. Little-endian, except keys, which are as in key.ts. Every byte is under a CRC-32C.
 *
 *   header        176 bytes (LayerHeader), its CRC last
 *   data blocks   each zstd (level 1) of up to 32 KiB of values one after another; a longer value has a block of its own
 *   index blocks  each zstd of up to 16 KiB (below), in order of key, then LSN
 *   key filter    key-filter.ts; none in a layer of an import
 *   top index     zstd of: for each index block (first key 18 bytes, LSN of its first value u64, offset in the file u32,
 *                 stored bytes u32, raw bytes u32, CRC of the stored bytes u32)
 *   footer        64 bytes (LayerFooter), its CRC last
 *
 * An index block has
 *
 *   counts        data blocks, keys, values: u32 each
 *   data blocks   those that its values are in: (offset in the file u32, stored bytes u32, raw bytes u32, CRC-32C of the
 *                 stored bytes u32)
 *   keys          (key 18 bytes, number of the key's first value u32, chain u8, flags u8), in key order
 *   values        (lsn u64, data block u32, offset in it u32, length u32, meta u8, block index u8), in order of key, then
 *                 oldest first
 *
 * so that a read needs the top index, one index block and the data blocks, each through the block cache: nothing of a
 * layer stays in memory. META_ENDS_CHAIN says without reading data how far down a read goes, `chain` and `flags` how
 * long the key's chain is as of its last value in the block.
 *
 * Version 1 is still read. It has no filter and no top index: its index is one block without counts (the footer and the
 * header have them), with keys of 22 bytes that have neither chain nor flags (docs/formats.md).
 *
 * zstd at level 1 was chosen over LZ4 by measurement: on binaries 1.6 against 1.3 times smaller at the same compression
 * speed (140-180 MB/s), on text 7 against 4; it decompresses 250 MB/s against 800, that is 0.13 ms a block.
 */
import { bytes, lsn64, struct, u16, u32, u64, u8 } from '@understory/base'
import type { Lsn, ShardIdentity, TenantId, TimelineId } from '@understory/base'
import { KEY_BYTES } from '../key/key.ts'

/** 'USLY' */
export const LAYER_MAGIC = 0x594c5355
export const LAYER_VERSION = 2
export const LAYER_KIND_DELTA = 1
export const LAYER_KIND_IMAGE = 2
export type LayerKind = typeof LAYER_KIND_DELTA | typeof LAYER_KIND_IMAGE

/** Raw bytes of values in a block; one value may be longer. */
export const BLOCK_BYTES = 32 * 1024
/** No block, and so no value, is larger: a WAL record is at most 1 GiB, but those that change pages are far smaller. */
export const BLOCK_BYTES_MAX = 256 * 1024 * 1024
export const INDEX_BYTES_MAX = 1024 * 1024 * 1024
/** Raw bytes of an index block; data blocks that values far apart share may take it a little beyond. */
export const INDEX_BLOCK_BYTES = 16 * 1024

export const LayerHeader = struct(176, {
  magic: u32,
  version: u16,
  kind: u8,
  pad1: u8,
  headerBytes: u32,
  shardNumber: u32,
  shardCount: u32,
  stripeBlocks: u32,
  tenantId: bytes(16),
  timelineId: bytes(16),
  generation: u64,
  /** First and last key, both inclusive. */
  keyFirst: bytes(KEY_BYTES),
  keyLast: bytes(KEY_BYTES),
  /** LSN of the oldest and of the newest value. */
  lsnMin: lsn64,
  lsnMax: lsn64,
  keyCount: u32,
  valueCount: u32,
  pad2: bytes(48),
  crc: u32,
})

export const LayerFooter = struct(64, {
  /** Where the data blocks end and the index blocks begin. */
  indexOffset: u64,
  filterOffset: u64,
  filterBytes: u32,
  filterCrc: u32,
  topOffset: u64,
  topStoredBytes: u32,
  topRawBytes: u32,
  topCrc: u32,
  pad: bytes(12),
  magic: u32,
  crc: u32,
})

/** Of version 1. */
export const LayerFooterV1 = struct(32, {
  indexOffset: u64,
  indexStoredBytes: u32,
  indexRawBytes: u32,
  indexCrc: u32,
  blockCount: u32,
  magic: u32,
  crc: u32,
})

export const INDEX_BLOCK_COUNTS_BYTES = 12
export const BLOCK_ENTRY_BYTES = 16
export const KEY_ENTRY_BYTES = KEY_BYTES + 6
export const KEY_ENTRY_BYTES_V1 = KEY_BYTES + 4
export const VALUE_ENTRY_BYTES = 22
export const TOP_ENTRY_BYTES = KEY_BYTES + 24

/** Flags of a key entry: the key has older values in the index block before. */
export const KEY_CONTINUES = 1
/** One of its values in this layer, up to the last one in this block, ends a chain. */
export const KEY_IS_WHOLE = 2
/** `chain` says this of so many and more. */
export const CHAIN_COUNT_MAX = 255

/** Whose layer it is: a file is refused where this differs. */
export interface LayerOwner {
  readonly tenantId: TenantId
  readonly timelineId: TimelineId
  readonly shard: ShardIdentity
}

export interface LayerSummary {
  readonly kind: LayerKind
  readonly lsnMin: Lsn
  readonly lsnMax: Lsn
  readonly keyCount: number
  readonly valueCount: number
  readonly sizeBytes: number
  /** CRC-32C of the whole file. */
  readonly crc: number
}

/** Name of a layer's file and object: `delta-<lsnMin>-<lsnMax>-<sequence>-g<generation>`, numbers in hexadecimal. */
export function layerName(
  kind: LayerKind,
  lsnMin: Lsn,
  lsnMax: Lsn,
  sequence: number,
  generation: number,
): string {
  const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0')
  const what = kind === LAYER_KIND_DELTA ? 'delta' : 'image'
  return `${what}-${hex(lsnMin, 16)}-${hex(lsnMax, 16)}-${hex(sequence, 8)}-g${hex(generation, 8)}`
}
export const LAYER_NAME = /^(delta|image)-[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]{8}-g[0-9a-f]{8}$/
