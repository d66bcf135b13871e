/**
 * What reading needs of a layer, in memory or in a file. Values have numbers; those of one key are linked from the
 * newest to the oldest. An *entry* is a layer's own number of a key.
 */
import type { Lsn } from '@understory/base'
import type { Key } from '../key/key.ts'

/** Entries in key order. */
export interface EntryRun {
  readonly length: number
  /** Of an index below `length`. */
  at(index: number): number | undefined
}

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
  /**
   * The entries whose keys are within [first, last]: in runs that are each in key order, made one by one, so that a
   * caller can let others work between two.
   */
  runsWithin(first: Key, last: Key): Iterable<EntryRun>
  keyOfEntry(entry: number): Key
  newestOfEntry(entry: number, at: Lsn): number
}
