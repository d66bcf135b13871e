/**
 * Which shard owns a key. Database and tablespace are left out of the hash, so that CREATE DATABASE by file copy
 * copies within each shard. This function is on disk in every layer's placement: it never changes for a layout.
 */
import type { ShardLayout } from '@understory/base'
import { KEY_BARRIER, KEY_RELATION_BLOCK, KEY_RELATION_SIZE, KEY_SLRU_PAGE } from './key.ts'
import type { Key } from './key.ts'

/** A 32-bit mixing function (the finalizer of MurmurHash3). */
function mix(value: number): number {
  let h = value | 0
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/** Owner of a block of a relation. All forks of a relation spread alike. */
export function shardOfBlock(layout: ShardLayout, rel: number, block: number): number {
  if (layout.count === 1) return 0
  return mix(mix(rel) ^ Math.floor(block / layout.stripeBlocks)) % layout.count
}

/** The shard that knows which forks a relation has and how large they are. */
export function homeShard(layout: ShardLayout, rel: number): number {
  return layout.count === 1 ? 0 : mix(mix(rel) ^ 0x5175) % layout.count
}

export function shardOfSlruPage(layout: ShardLayout, slruNumberOfKind: number, page: number): number {
  return layout.count === 1 ? 0 : mix(mix(slruNumberOfKind + 0x51) ^ page) % layout.count
}

/** Owner of any key; `undefined` for barriers, which every shard keeps. */
export function shardOfKey(layout: ShardLayout, key: Key): number | undefined {
  switch (key.keyClass) {
    case KEY_RELATION_BLOCK:
      return shardOfBlock(layout, key.rel, key.block)
    case KEY_RELATION_SIZE:
      return homeShard(layout, key.rel)
    case KEY_BARRIER:
      return undefined
    case KEY_SLRU_PAGE:
      return shardOfSlruPage(layout, key.spcOid, key.block)
    default:
      return 0
  }
}
