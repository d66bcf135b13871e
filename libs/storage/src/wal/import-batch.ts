/**
 * Import batch, version 1: values of a base backup. Per value: key 18 bytes | length u32 le | bytes. A relation block
 * has 8,192 bytes.
 */
import { Cursor } from '@understory/base'
import { KEY_BYTES, readKey, writeKey } from '../key/key.ts'
import type { Key } from '../key/key.ts'

export interface ImportValue {
  readonly key: Key
  /** Borrows from the batch when read. */
  readonly bytes: Uint8Array
}

export function encodeImportBatch(values: readonly ImportValue[]): Buffer {
  const size = values.reduce((sum, { bytes }) => sum + KEY_BYTES + 4 + bytes.length, 0)
  const batch = Buffer.allocUnsafe(size)
  const view = new DataView(batch.buffer, batch.byteOffset, size)
  let at = 0
  for (const { key, bytes } of values) {
    writeKey(view, at, key)
    view.setUint32(at + KEY_BYTES, bytes.length, true)
    batch.set(bytes, at + KEY_BYTES + 4)
    at += KEY_BYTES + 4 + bytes.length
  }
  return batch
}

/** Errors: `bad_argument` where the batch is cut short. */
export function* readImportBatch(batch: Uint8Array): Generator<ImportValue, void, void> {
  const cursor = new Cursor(batch, 'import batch', 'bad_argument')
  while (cursor.remaining > 0) {
    const at = cursor.at
    cursor.skip(KEY_BYTES)
    yield { key: readKey(cursor.view, at), bytes: cursor.take(cursor.u32()) }
  }
}
