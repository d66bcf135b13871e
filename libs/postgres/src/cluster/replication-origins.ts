/**
 * pg_logical/replorigin_checkpoint: how far each replication origin had come at a checkpoint. A start without recovery
 * takes it as it is.
 *
 *   magic u32 | (origin id u16, 6 bytes of padding, remote LSN u64) ... | CRC-32C of all before
 *
 * Source: replication/logical/origin.c CheckPointReplicationOrigin, StartupReplicationOrigin (16, 17, 18 alike).
 */
import { bytes, fail, struct, u16, u64 } from '@understory/base'
import { crc32c } from '../wal/crc.ts'

export const ORIGIN_CHECKPOINT_PATH = 'pg_logical/replorigin_checkpoint'

const REPLICATION_STATE_MAGIC = 0x1257dade
const MAGIC_BYTES = 4
const CRC_BYTES = 4
const ReplicationStateOnDisk = struct(16, { roident: u16, pad6: bytes(6), remoteLsn: u64 })

export function encodeOriginCheckpoint(origins: ReadonlyMap<number, bigint>): Uint8Array {
  const out = new Uint8Array(MAGIC_BYTES + origins.size * ReplicationStateOnDisk.SIZE + CRC_BYTES)
  const view = new DataView(out.buffer)
  view.setUint32(0, REPLICATION_STATE_MAGIC, true)
  let at = MAGIC_BYTES
  for (const [originId, remoteLsn] of origins) {
    ReplicationStateOnDisk.roident.set(view, at, originId)
    ReplicationStateOnDisk.remoteLsn.set(view, at, remoteLsn)
    at += ReplicationStateOnDisk.SIZE
  }
  view.setUint32(at, crc32c(out, 0, at), true)
  return out
}

/** Remote LSN by origin id. Errors: `bad_file` where Postgres would not start on the file. */
export function parseOriginCheckpoint(content: Uint8Array): Map<number, bigint> {
  const end = content.length - CRC_BYTES
  const statesBytes = end - MAGIC_BYTES
  if (statesBytes < 0 || statesBytes % ReplicationStateOnDisk.SIZE !== 0)
    throw fail('bad_file', `checkpoint of replication origins has a length of ${content.length} bytes`)
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength)
  if (view.getUint32(0, true) !== REPLICATION_STATE_MAGIC)
    throw fail('bad_file', 'checkpoint of replication origins has an incorrect magic number')
  if (view.getUint32(end, true) !== crc32c(content, 0, end))
    throw fail('bad_file', 'checkpoint of replication origins has an incorrect checksum')
  const origins = new Map<number, bigint>()
  for (let at = MAGIC_BYTES; at < end; at += ReplicationStateOnDisk.SIZE)
    origins.set(ReplicationStateOnDisk.roident.get(view, at), ReplicationStateOnDisk.remoteLsn.get(view, at))
  return origins
}
