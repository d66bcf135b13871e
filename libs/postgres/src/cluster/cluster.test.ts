// Goal: the tracker moves as recovery does at the edges that a short history never reaches, file names go
// both ways, and damaged files are refused. Method: records and files built by hand.
import { LSN_ZERO, advance, lsn } from '@understory/base'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  DecodedRecord,
  RM_CLOG_ID,
  RM_COMMIT_TS_ID,
  RM_MULTIXACT_ID,
  RM_XACT_ID,
  RM_XLOG_ID,
  WAL_SEGMENT_BYTES,
  XLOG_CHECKPOINT_ONLINE,
  XLOG_CHECKPOINT_SHUTDOWN,
  XLOG_FPW_CHANGE,
  XLOG_NEXTOID,
  XLOG_PARAMETER_CHANGE,
  decodeRecord,
  encodeRecord,
} from '../wal/index.ts'
import {
  CHECKPOINT_BYTES,
  DB_SHUTDOWNED,
  DB_SHUTDOWNED_IN_RECOVERY,
  clusterVersions,
  decodeTrackerState,
  encodeCheckPoint,
  encodeTrackerState,
  forgeShutdownCheckpoint,
  forgedControlFile,
  parseControlFile,
  parseDatabasePath,
  parseRelationPath,
  parseSlruSegmentPath,
  parseTwoPhaseName,
  patchControlFile,
  readCheckPoint,
  relationPath,
  relmapPath,
  slruPageOf,
  slruSegmentOf,
  slruSegmentPath,
  track,
  twoPhasePath,
  xidNote,
} from './index.ts'
import type { CheckPointValues, TrackerState } from './index.ts'
import { crc32c } from '../wal/crc.ts'

const majors = [16, 17, 18] as const

const initial: TrackerState = {
  timelineId: 1,
  nextXidEpoch: 4,
  nextXid: 1000,
  nextOid: 20_000,
  nextMulti: 10,
  nextMultiOffset: 50,
  oldestXid: 700,
  oldestXidDb: 1,
  oldestMulti: 1,
  oldestMultiDb: 1,
  oldestCommitTsXid: 0,
  newestCommitTsXid: 0,
  fullPageWrites: true,
  fullPageWritesLsn: LSN_ZERO,
  checkpointLsn: lsn(0x100_0028),
  checkpointRedoLsn: lsn(0x100_0028),
  checkpointIsShutdown: true,
  checkpointTimeSeconds: 1_700_000_000,
  walLevel: 1,
  walLogHints: false,
  maxConnections: 100,
  maxWorkerProcesses: 8,
  maxWalSenders: 10,
  maxPreparedXacts: 0,
  maxLocksPerXact: 64,
  trackCommitTimestamp: false,
}

function feed(
  state: TrackerState,
  rmid: number,
  info: number,
  words: readonly number[],
  xid = 0,
  major: 16 | 17 | 18 = 17,
): boolean {
  const mainData = new Uint8Array(Uint32Array.from(words).buffer)
  const record = new DecodedRecord()
  decodeRecord(
    record,
    encodeRecord({ rmid, info, xid, prevLsn: lsn(0x200_0000), mainData }),
    0,
    lsn(0x200_0100),
    lsn(0x200_0200),
  )
  return track(state, record, { major })
}

describe('the tracker', () => {
  test('moves nextXid past every xid, round the circle and over the special ids', () => {
    const state = { ...initial }
    expect([xidNote(state, 0), xidNote(state, 999)]).toEqual([false, false])
    expect(xidNote(state, 1000)).toBe(true)
    expect([state.nextXidEpoch, state.nextXid]).toEqual([4, 1001])
    state.nextXid = 0xffff_fff0
    xidNote(state, 0xffff_ffff)
    expect([state.nextXidEpoch, state.nextXid]).toEqual([5, 3])
    expect(xidNote(state, 0xffff_ff00)).toBe(false)
    state.nextXid = 0xffff_fff0
    xidNote(state, 20)
    expect([state.nextXidEpoch, state.nextXid]).toEqual([6, 21])
  })

  test('takes xids from subtransactions of a commit', () => {
    const state = { ...initial }
    const info = 0x80 // XLOG_XACT_COMMIT | XLOG_XACT_HAS_INFO; xinfo: HAS_SUBXACTS
    expect(feed(state, RM_XACT_ID, info, [0, 0, 2, 2, 1002, 1005], 1001)).toBe(true)
    expect(state.nextXid).toBe(1006)
    expect(state.newestCommitTsXid).toBe(0)
    Object.assign(state, { trackCommitTimestamp: true, oldestCommitTsXid: 900, newestCommitTsXid: 900 })
    feed(state, RM_XACT_ID, info, [0, 0, 2, 2, 1007, 1009], 1006)
    expect(state).toMatchObject({ nextXid: 1010, newestCommitTsXid: 1009 })
    feed(state, RM_XACT_ID, 0, [0, 0], 1010)
    expect(state).toMatchObject({ nextXid: 1011, newestCommitTsXid: 1010 })
  })

  test('advances multixacts, their members and their oldest', () => {
    const state = { ...initial }
    feed(state, RM_MULTIXACT_ID, 0x20, [11, 60, 2, 990, 0, 1030, 1])
    expect(state).toMatchObject({ nextMulti: 12, nextMultiOffset: 62, nextXid: 1031 })
    feed(state, RM_MULTIXACT_ID, 0x20, [5, 20, 1, 990, 0])
    expect(state).toMatchObject({ nextMulti: 12, nextMultiOffset: 62 })
    feed(state, RM_MULTIXACT_ID, 0x30, [77, 1, 9, 0, 40])
    expect(state).toMatchObject({ oldestMulti: 9, oldestMultiDb: 77 })
  })

  test.each(majors)('advances the oldest xids when %i truncates', (major) => {
    const state = { ...initial, oldestCommitTsXid: 700 }
    const page = major === 16 ? [0] : [0, 0]
    expect(feed(state, RM_CLOG_ID, 0x10, [...page, 800, 5], 0, major)).toBe(true)
    expect(feed(state, RM_CLOG_ID, 0x10, [...page, 750, 6], 0, major)).toBe(false)
    expect(state).toMatchObject({ oldestXid: 800, oldestXidDb: 5 })
    expect(feed(state, RM_COMMIT_TS_ID, 0x10, [...page, 820], 0, major)).toBe(true)
    expect(state.oldestCommitTsXid).toBe(820)
    expect(feed(state, RM_CLOG_ID, 0x00, page, 0, major)).toBe(false)
  })

  test('keeps settings and starts or ends commit timestamps with them', () => {
    const state = { ...initial }
    feed(state, RM_XLOG_ID, XLOG_PARAMETER_CHANGE, [200, 9, 11, 3, 65, 2, 0x0101])
    expect(state).toMatchObject({
      maxConnections: 200,
      maxWorkerProcesses: 9,
      maxWalSenders: 11,
      maxPreparedXacts: 3,
      maxLocksPerXact: 65,
      walLevel: 2,
      walLogHints: true,
      trackCommitTimestamp: true,
      oldestCommitTsXid: 1000,
      newestCommitTsXid: 1000,
    })
    feed(state, RM_XLOG_ID, XLOG_PARAMETER_CHANGE, [200, 9, 11, 3, 65, 2, 0x0001])
    expect(state).toMatchObject({ trackCommitTimestamp: false, oldestCommitTsXid: 0, newestCommitTsXid: 0 })
  })

  test.each(majors)('believes a shutdown checkpoint of %i and takes minima from an online one', (major) => {
    const values: CheckPointValues = {
      redoLsn: lsn(0x123_4560),
      timelineId: 1,
      prevTimelineId: 1,
      fullPageWrites: false,
      walLevel: major >= 17 ? 2 : 0,
      nextXid: (4n << 32n) | 900n,
      nextOid: 15_000,
      nextMulti: 8,
      nextMultiOffset: 40,
      oldestXid: 650,
      oldestXidDb: 3,
      oldestMulti: 2,
      oldestMultiDb: 4,
      timeSeconds: 1_800_000_000,
      oldestCommitTsXid: 5,
      newestCommitTsXid: 6,
      oldestActiveXid: 0,
    }
    const encoded = encodeCheckPoint(values, major)
    expect(readCheckPoint(encoded, 0, major)).toEqual(values)
    const words = new Uint32Array(encoded.buffer)
    const online = { ...initial }
    feed(online, RM_XLOG_ID, XLOG_CHECKPOINT_ONLINE, [...words], 0, major)
    expect(online).toEqual({
      ...initial,
      oldestMulti: 2,
      oldestMultiDb: 4,
      fullPageWrites: false,
      fullPageWritesLsn: lsn(0x200_0100),
      checkpointLsn: lsn(0x200_0100),
      checkpointRedoLsn: lsn(0x123_4560),
      checkpointIsShutdown: false,
      checkpointTimeSeconds: 1_800_000_000,
    })
    const shutdown = { ...initial }
    feed(shutdown, RM_XLOG_ID, XLOG_CHECKPOINT_SHUTDOWN, [...words], 0, major)
    expect(shutdown).toMatchObject({
      nextXidEpoch: 4,
      nextXid: 900,
      nextOid: 15_000,
      nextMulti: 8,
      nextMultiOffset: 40,
      oldestXid: 650,
    })
    feed(shutdown, RM_XLOG_ID, XLOG_FPW_CHANGE, [1], 0, major)
    feed(shutdown, RM_XLOG_ID, XLOG_NEXTOID, [30_000], 0, major)
    expect(shutdown).toMatchObject({ fullPageWrites: true, nextOid: 30_000 })
  })

  test.each(majors)('takes the first multixact as the next where a checkpoint of %i says 0', (major) => {
    const last = {
      ...initial,
      nextMulti: 0xffff_ffff,
      nextMultiOffset: 0xffff_fffe,
      oldestMulti: 0xffff_0000,
    }
    feed(last, RM_MULTIXACT_ID, 0x20, [0xffff_ffff, 0xffff_fffe, 3, 990, 0, 991, 0, 992, 1], 0, major)
    expect(last).toMatchObject({ nextMulti: 1, nextMultiOffset: 1 })
    const values: CheckPointValues = {
      ...readCheckPoint(new Uint8Array(CHECKPOINT_BYTES), 0, major),
      nextXid: (4n << 32n) | 1000n,
      nextMulti: 0,
      nextMultiOffset: 1,
      oldestMulti: 0xffff_0000,
    }
    for (const info of [XLOG_CHECKPOINT_ONLINE, XLOG_CHECKPOINT_SHUTDOWN]) {
      const words = new Uint32Array(encodeCheckPoint(values, major).buffer)
      for (const before of [last, { ...last, nextMulti: 0xffff_ffff }]) {
        const state = { ...before }
        feed(state, RM_XLOG_ID, info, [...words], 0, major)
        expect(state).toMatchObject({ nextMulti: 1, nextMultiOffset: 1, oldestMulti: 0xffff_0000 })
      }
    }
  })

  test('refuses records that are too short for what they are', () => {
    for (const [rmid, info] of [
      [RM_XLOG_ID, 0x00],
      [RM_XLOG_ID, 0x30],
      [RM_XLOG_ID, 0x60],
      [RM_MULTIXACT_ID, 0x20],
      [RM_CLOG_ID, 0x10],
    ] as const) {
      expect(() => feed({ ...initial }, rmid, info, [])).toThrow(/is 0 bytes, not/)
    }
    expect(() => feed({ ...initial }, RM_MULTIXACT_ID, 0x20, [1, 2, 1_000_000])).toThrow(/bytes|members/)
    expect(() => feed({ ...initial }, RM_MULTIXACT_ID, 0x20, [1, 2, 0xffff_ffff])).toThrow(/bytes|members/)
  })

  test('survives encoding, and only unharmed', () => {
    const state = {
      ...initial,
      trackCommitTimestamp: true,
      nextXid: 0xffff_ffff,
      fullPageWritesLsn: lsn(2 ** 52),
    }
    const bytes = encodeTrackerState(state)
    expect(decodeTrackerState(bytes)).toEqual(state)
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, mask) => {
        const bad = Uint8Array.from(bytes)
        bad[at] = (bad[at] as number) ^ mask
        expect(() => decodeTrackerState(bad)).toThrow(/checksum|unknown version/)
      }),
    )
    expect(() => decodeTrackerState(bytes.subarray(1))).toThrow('127 bytes')
  })
})

/** A pg_control as initdb might have left it, of the fields that matter here. */
function controlTemplate(major: 16 | 17 | 18): Uint8Array {
  const { ControlFile: layout, controlVersion, catalogVersion } = clusterVersions[major]
  const bytes = new Uint8Array(8192)
  const view = new DataView(bytes.buffer)
  layout.systemId.set(view, 0, 0x7fff_ffff_ffff_fffen)
  layout.pgControlVersion.set(view, 0, controlVersion)
  layout.catalogVersion.set(view, 0, catalogVersion)
  layout.state.set(view, 0, 6)
  layout.blockBytes.set(view, 0, 8192)
  layout.walBlockBytes.set(view, 0, 8192)
  layout.relationSegmentBlocks.set(view, 0, 131_072)
  layout.walSegmentBytes.set(view, 0, WAL_SEGMENT_BYTES)
  layout.minRecoveryPoint.set(view, 0, lsn(77))
  layout.backupEndRequired.set(view, 0, 1)
  layout.crc.set(view, 0, crc32c(bytes, 0, layout.crc.offset))
  return bytes
}

describe.each(majors)('pg_control of %i', (major) => {
  test('holds the forged checkpoint byte for byte and nothing of what was under way', () => {
    const wal = { major, systemId: 1n, timelineId: 1, segmentBytes: WAL_SEGMENT_BYTES }
    const atLsn = lsn(0x300_0000)
    const forged = forgeShutdownCheckpoint({
      state: initial,
      atLsn,
      prevLsn: lsn(0x2ff_ff00),
      wal,
      timeSeconds: 5,
      preparedXids: [999],
    })
    expect(forged.recordLsn).toBe(advance(atLsn, 40))
    const file = forgedControlFile(controlTemplate(major), forged, initial, 5)
    const { ControlFile: layout } = clusterVersions[major]
    expect(layout.checkPointCopy.get(new DataView(file.buffer), 0)).toEqual(forged.checkpoint)
    expect(Buffer.from(forged.bytes).includes(Buffer.from(forged.checkpoint))).toBe(true)
    expect(parseControlFile(file)).toMatchObject({
      major,
      state: DB_SHUTDOWNED,
      checkpointLsn: forged.recordLsn,
      minRecoveryPoint: 0,
      backupEndRequired: false,
      unloggedLsn: 1000,
      maxConnections: 100,
      walLevel: 1,
      systemId: 0x7fff_ffff_ffff_fffen,
      timeSeconds: 5,
      checkpoint: {
        redoLsn: forged.recordLsn,
        nextXid: (4n << 32n) | 1000n,
        oldestActiveXid: 0,
        walLevel: major >= 17 ? 1 : 0,
      },
    })
    expect(() =>
      forgeShutdownCheckpoint({
        state: initial,
        atLsn,
        prevLsn: lsn(8),
        wal,
        timeSeconds: 5,
        preparedXids: [1000],
      }),
    ).toThrow('not below nextXid')
    const follower = patchControlFile(controlTemplate(major), {
      state: DB_SHUTDOWNED_IN_RECOVERY,
      checkpointLsn: atLsn,
      checkpoint: forged.checkpoint,
      settings: initial,
      timeSeconds: 5,
      minRecoveryPoint: lsn(0x400_0000),
      minRecoveryPointTimelineId: 1,
    })
    expect(parseControlFile(follower)).toMatchObject({
      state: 2,
      minRecoveryPoint: 0x400_0000,
      minRecoveryPointTimelineId: 1,
    })
  })

  test('is refused when damaged', () => {
    const good = controlTemplate(major)
    const { ControlFile: layout } = clusterVersions[major]
    for (let at = 0; at < layout.crc.offset + 4; at++) {
      const bad = Uint8Array.from(good)
      bad[at] = (bad[at] as number) ^ 0x10
      expect(() => parseControlFile(bad)).toThrow(/checksum|unknown version/)
    }
    expect(() => parseControlFile(good.subarray(1))).toThrow('8191 bytes')
    layout.blockBytes.set(new DataView(good.buffer), 0, 4096)
    layout.crc.set(new DataView(good.buffer), 0, crc32c(good, 0, layout.crc.offset))
    expect(() => parseControlFile(good)).toThrow('block sizes 4096')
  })
})

describe('file names', () => {
  test('of relations go both ways', () => {
    const rel = { spcOid: 1663, dbOid: 5, relNumber: 1234 }
    expect(relationPath(rel, 0, 0, 17)).toBe('base/5/1234')
    expect(relationPath(rel, 2, 1, 17)).toBe('base/5/1234_vm.1')
    expect(relationPath({ ...rel, spcOid: 1664, dbOid: 0 }, 1, 0, 17)).toBe('global/1234_fsm')
    expect(relationPath({ ...rel, spcOid: 16_384 }, 3, 0, 18)).toBe(
      'pg_tblspc/16384/PG_18_202506291/5/1234_init',
    )
    fc.assert(
      fc.property(
        fc.constantFrom(1663, 1664, 99_999, 0xffff_ffff),
        fc.integer({ min: 1, max: 0xffff_ffff }),
        fc.integer({ min: 1, max: 0xffff_ffff }),
        fc.nat(3),
        fc.nat(32_767),
        fc.constantFrom(...majors),
        (spcOid, db, relNumber, fork, segment, major) => {
          const whole = { spcOid, dbOid: spcOid === 1664 ? 0 : db, relNumber }
          expect(parseRelationPath(relationPath(whole, fork, segment, major), major)).toEqual({
            ...whole,
            fork,
            segment,
          })
        },
      ),
    )
    for (const other of [
      'base/5/t3_1234',
      'base/5/pg_internal.init',
      'base/5/1234_xyz',
      'base/5/1234.0',
      'base/5/01234',
      'base/1234',
      'base/5/',
      'global/pg_control',
      'base/pgsql_tmp/1',
      'pg_tblspc/16384/PG_16_202307071/5/1',
      'pg_tblspc/1/5/1',
      '../base/5/1',
      'base/99999999999/1',
      '',
    ])
      expect(parseRelationPath(other, 17)).toBeUndefined()
    expect(parseDatabasePath('base/5', 17)).toEqual({ spcOid: 1663, dbOid: 5 })
    expect(relmapPath(1663, 5, 17)).toBe('base/5/pg_filenode.map')
    expect(relmapPath(1664, 0, 17)).toBe('global/pg_filenode.map')
  })

  test('of SLRU segments and two-phase files go both ways', () => {
    expect(slruSegmentPath('pg_xact', slruSegmentOf(slruPageOf('pg_xact', 0xffff_ffff)))).toBe('pg_xact/0FFF')
    expect(
      slruSegmentPath('pg_multixact/members', slruSegmentOf(slruPageOf('pg_multixact/members', 0xffff_ffff))),
    ).toBe('pg_multixact/members/14078')
    expect(slruPageOf('pg_multixact/offsets', 2048)).toBe(1)
    expect(slruPageOf('pg_commit_ts', 819)).toBe(1)
    expect(parseSlruSegmentPath('pg_multixact/members/14078')).toEqual({
      kind: 'pg_multixact/members',
      segment: 0x14078,
    })
    for (const other of [
      'pg_subtrans/0000',
      'pg_xact/000',
      'pg_xact/00000',
      'pg_xact/000g',
      'pg_xact',
      '0000',
    ]) {
      expect(parseSlruSegmentPath(other)).toBeUndefined()
    }
    expect(twoPhasePath(750, { epoch: 2, xid: 1000 }, 16)).toBe('pg_twophase/000002EE')
    expect(twoPhasePath(750, { epoch: 2, xid: 1000 }, 17)).toBe('pg_twophase/00000002000002EE')
    expect(twoPhasePath(0xffff_fff0, { epoch: 2, xid: 1000 }, 18)).toBe('pg_twophase/00000001FFFFFFF0')
    expect(parseTwoPhaseName('00000002000002EE', 17)).toBe(750)
    expect(parseTwoPhaseName('000002EE', 17)).toBeUndefined()
  })
})
