/** Progress of a replication origin as a value: how far the origin's own server is applied. */
import { bytes, fail, struct, u64, u8 } from '@understory/base'
import { KEY_REPLICATION_ORIGIN, smallKey } from './key.ts'
import type { Key } from './key.ts'

const FORMAT_VERSION = 1
const OriginProgress = struct(16, { version: u8, pad7: bytes(7), remoteLsn: u64 })

/** `originId`: pg_replication_origin.roident, 1 to 65,534. */
export const replicationOriginKey = (originId: number): Key =>
  smallKey(KEY_REPLICATION_ORIGIN, 0, 0, originId)

export function encodeOriginProgress(remoteLsn: bigint): Uint8Array {
  const out = new Uint8Array(OriginProgress.SIZE)
  const view = new DataView(out.buffer)
  OriginProgress.version.set(view, 0, FORMAT_VERSION)
  OriginProgress.remoteLsn.set(view, 0, remoteLsn)
  return out
}

/** Errors: `bad_file` if the bytes are not what `encodeOriginProgress` makes. */
export function decodeOriginProgress(encoded: Uint8Array): bigint {
  const view = new DataView(encoded.buffer, encoded.byteOffset, encoded.byteLength)
  if (encoded.length !== OriginProgress.SIZE || OriginProgress.version.get(view, 0) !== FORMAT_VERSION)
    throw fail(
      'bad_file',
      `progress of a replication origin has ${encoded.length} bytes of an unknown format`,
    )
  return OriginProgress.remoteLsn.get(view, 0)
}
