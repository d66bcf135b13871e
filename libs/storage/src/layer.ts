/**
 * What reading needs of a layer, in memory or in a file. Values have numbers; those of one key are linked from the
 * newest to the oldest. An *entry* is a layer's own number of a key.
 */
import type { Lsn } from '@understory/base'
import type { Key } from './key.ts'

export interface Layer {
  /** The newest value of the key at or before `at`, or -1. */
  newest(key: Key, at: Lsn): number
  /** The next older value of the same key, or -1. */
  older(value: number): number
  lsnOf(value: number): Lsn
  metaOf(value: number): number
  blockIndexOf(value: number): number
  lengthOf(value: number): number
  /** The value's bytes if they are at hand; borrowed until the next call that may load another block. */
  bytesOf(value: number): Uint8Array | undefined
  /** The value's bytes, read if need be; they stay as they are. Error: refused `bad_file` where the layer is damaged. */
  load(value: number): Promise<Uint8Array>
  /** Every entry, in key order. */
  sortedEntries(): Uint32Array
  keyOfEntry(entry: number): Key
  newestOfEntry(entry: number, at: Lsn): number
}
