/**
 * The tracker's state as bytes: 128 of them, the first is the format's own version, the last four a CRC-32C.
 */
import { bytes, i32, i64, lsn64, fail, struct, u16, u32, u8 } from '@understory/base'
import { crc32c } from '../wal/crc.ts'
import type { TrackerState } from './checkpoint-tracker.ts'

const FORMAT_VERSION = 1
const FLAG_FULL_PAGE_WRITES = 1 << 0
const FLAG_CHECKPOINT_IS_SHUTDOWN = 1 << 1
const FLAG_WAL_LOG_HINTS = 1 << 2
const FLAG_TRACK_COMMIT_TIMESTAMP = 1 << 3

const EncodedState = struct(128, {
  version: u8,
  flags: u8,
  pad2: u16,
  timelineId: u32,
  nextXid: u32,
  nextXidEpoch: u32,
  nextOid: u32,
  nextMulti: u32,
  nextMultiOffset: u32,
  oldestXid: u32,
  oldestXidDb: u32,
  oldestMulti: u32,
  oldestMultiDb: u32,
  oldestCommitTsXid: u32,
  newestCommitTsXid: u32,
  walLevel: i32,
  maxConnections: i32,
  maxWorkerProcesses: i32,
  maxWalSenders: i32,
  maxPreparedXacts: i32,
  maxLocksPerXact: i32,
  pad4: u32,
  fullPageWritesLsn: lsn64,
  checkpointLsn: lsn64,
  checkpointRedoLsn: lsn64,
  checkpointTimeSeconds: i64,
  pad12: bytes(12),
  crc: u32,
})

const plainFields = [
  'timelineId',
  'nextXid',
  'nextXidEpoch',
  'nextOid',
  'nextMulti',
  'nextMultiOffset',
  'oldestXid',
  'oldestXidDb',
  'oldestMulti',
  'oldestMultiDb',
  'oldestCommitTsXid',
  'newestCommitTsXid',
  'walLevel',
  'maxConnections',
  'maxWorkerProcesses',
  'maxWalSenders',
  'maxPreparedXacts',
  'maxLocksPerXact',
] as const

export function encodeTrackerState(state: Readonly<TrackerState>): Uint8Array {
  const out = new Uint8Array(EncodedState.SIZE)
  const view = new DataView(out.buffer)
  EncodedState.version.set(view, 0, FORMAT_VERSION)
  EncodedState.flags.set(
    view,
    0,
    (state.fullPageWrites ? FLAG_FULL_PAGE_WRITES : 0) |
      (state.checkpointIsShutdown ? FLAG_CHECKPOINT_IS_SHUTDOWN : 0) |
      (state.walLogHints ? FLAG_WAL_LOG_HINTS : 0) |
      (state.trackCommitTimestamp ? FLAG_TRACK_COMMIT_TIMESTAMP : 0),
  )
  for (const name of plainFields) EncodedState[name].set(view, 0, state[name])
  EncodedState.fullPageWritesLsn.set(view, 0, state.fullPageWritesLsn)
  EncodedState.checkpointLsn.set(view, 0, state.checkpointLsn)
  EncodedState.checkpointRedoLsn.set(view, 0, state.checkpointRedoLsn)
  EncodedState.checkpointTimeSeconds.set(view, 0, BigInt(state.checkpointTimeSeconds))
  EncodedState.crc.set(view, 0, crc32c(out, 0, EncodedState.crc.offset))
  return out
}

/** Errors: `bad_file` if the bytes are not what `encodeTrackerState` makes. */
export function decodeTrackerState(encoded: Uint8Array): TrackerState {
  if (encoded.length !== EncodedState.SIZE)
    throw fail('bad_file', `checkpoint tracker state has ${encoded.length} bytes, not ${EncodedState.SIZE}`)
  const view = new DataView(encoded.buffer, encoded.byteOffset, encoded.byteLength)
  const version = EncodedState.version.get(view, 0)
  if (version !== FORMAT_VERSION)
    throw fail('bad_file', `checkpoint tracker state is of the unknown version ${version}`)
  if (EncodedState.crc.get(view, 0) !== crc32c(encoded, 0, EncodedState.crc.offset)) {
    throw fail('bad_file', 'checkpoint tracker state has an incorrect checksum')
  }
  const flags = EncodedState.flags.get(view, 0)
  const plain = Object.fromEntries(
    plainFields.map((name) => [name, EncodedState[name].get(view, 0)]),
  ) as Pick<TrackerState, (typeof plainFields)[number]>
  return {
    ...plain,
    fullPageWrites: (flags & FLAG_FULL_PAGE_WRITES) !== 0,
    checkpointIsShutdown: (flags & FLAG_CHECKPOINT_IS_SHUTDOWN) !== 0,
    walLogHints: (flags & FLAG_WAL_LOG_HINTS) !== 0,
    trackCommitTimestamp: (flags & FLAG_TRACK_COMMIT_TIMESTAMP) !== 0,
    fullPageWritesLsn: EncodedState.fullPageWritesLsn.get(view, 0),
    checkpointLsn: EncodedState.checkpointLsn.get(view, 0),
    checkpointRedoLsn: EncodedState.checkpointRedoLsn.get(view, 0),
    checkpointTimeSeconds: Number(EncodedState.checkpointTimeSeconds.get(view, 0)),
  }
}
