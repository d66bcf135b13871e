// Goal: a stock server starts without recovery at a checkpoint that we made, wherever in WAL it comes to lie,
// and the tracker knows what the primary knew. Method: real clusters of each version; their WAL is tracked
// from initdb on.
import {
  chownSync,
  closeSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { advance, lsn, offsetInSegment, segmentOf } from '@understory/base'
import type { Lsn } from '@understory/base'
import { startPostgres } from '@understory/testcontainers'
import type { PostgresServer } from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import {
  RM_XLOG_ID,
  WAL_SEGMENT_BYTES,
  XLOG_CHECKPOINT_SHUTDOWN,
  XLOG_NOOP,
  encodeRecord,
  placeRecord,
  readRecordsOfSegments,
  walFileName,
} from '../wal/index.ts'
import type { WalIdentity } from '../wal/index.ts'
import {
  DB_SHUTDOWNED,
  clusterVersions,
  dataDirectoriesOf,
  decodeTrackerState,
  encodeTrackerState,
  forgeShutdownCheckpoint,
  forgedControlFile,
  parseControlFile,
  parseRelmap,
  parseRelationPath,
  parseSlruSegmentPath,
  parseTwoPhaseName,
  readCheckPoint,
  relationPath,
  segmentsForStart,
  slruSegmentPath,
  track,
  trackerStateOf,
  twoPhasePath,
} from './index.ts'
import type { ControlFileValues, ForgedCheckpoint, TrackerState } from './index.ts'

const settings = {
  max_prepared_transactions: 5,
  track_commit_timestamp: true,
  wal_keep_size: '1GB',
  autovacuum: false,
  wal_level: 'logical',
}
const controlPath = (server: PostgresServer): string => join(server.dataDirectory, 'global', 'pg_control')
const readControl = (server: PostgresServer): ControlFileValues =>
  parseControlFile(readFileSync(controlPath(server)))
const identityOf = (control: ControlFileValues): WalIdentity => ({
  major: control.major,
  systemId: control.systemId,
  timelineId: control.checkpoint.timelineId,
  segmentBytes: WAL_SEGMENT_BYTES,
})

function segmentReader(server: PostgresServer): (segment: number) => Uint8Array | undefined {
  const names = new Set(readdirSync(join(server.dataDirectory, 'pg_wal')))
  return (segment) => {
    const name = walFileName(1, segment, WAL_SEGMENT_BYTES)
    return names.has(name) ? readFileSync(join(server.dataDirectory, 'pg_wal', name)) : undefined
  }
}

interface Tracked {
  readonly state: TrackerState
  /** As it was before the last record. */
  readonly before: TrackerState
  readonly lastLsn: Lsn
  readonly endLsn: Lsn
  readonly lastInfo: number
  readonly lastData: Uint8Array
}

/** Follows the whole WAL from the checkpoint that `start` stands at. */
function trackAll(server: PostgresServer, start: ControlFileValues): Tracked {
  const state = trackerStateOf(start)
  let found: Omit<Tracked, 'state'> | undefined
  for (const record of readRecordsOfSegments(segmentReader(server), {
    startLsn: start.checkpoint.redoLsn,
    major: start.major,
  })) {
    const before = { ...state }
    track(state, record, start)
    found = {
      before,
      lastLsn: record.recordLsn,
      endLsn: record.nextLsn,
      lastInfo: record.rmid === RM_XLOG_ID ? record.info : -1,
      lastData: record.bytes.slice(record.mainDataOffset, record.mainDataOffset + record.mainDataLength),
    }
  }
  if (found === undefined) throw new Error('no WAL')
  return { state, ...found }
}

async function makeHistory(server: PostgresServer): Promise<void> {
  const client = await server.connect()
  const other = await server.connect()
  for (const sql of [
    'create table t (id int primary key, v int)',
    'insert into t select g, g from generate_series(1, 2000) g',
    'begin',
    'select * from t where id < 50 for share',
    'savepoint a',
    'update t set v = 1 where id = 900',
    'rollback to a',
  ])
    await client.query(sql)
  await other.query('begin')
  await other.query('select * from t where id < 100 for share') // shared locks of two: multixacts
  await other.query('commit')
  await client.query('commit')
  for (const sql of [
    `begin; insert into t values (-1, 1); savepoint s; insert into t values (-2, 2); prepare transaction 'kept'`,
    'create database d',
    'vacuum freeze t',
    'checkpoint',
    'alter system set full_page_writes = off',
    'select pg_reload_conf()',
    `do $$ begin for i in 1..20 loop begin insert into t values (3000 + i, 0); exception when others then null; end; end loop; end $$`,
    'select lo_create(0)',
  ])
    await client.query(sql)
  await client.query('checkpoint')
  await client.query('checkpoint') // the first may have been under way when the setting changed
  await client.end()
  await other.end()
}

/** Moves every counter once more, so that no later checkpoint record shows the tracker what it missed. */
async function makeLastChanges(server: PostgresServer): Promise<void> {
  const client = await server.connect()
  const other = await server.connect()
  await client.query('begin; select * from t where id < 70 for share')
  await other.query(
    'begin; select * from t where id < 90 for share; savepoint s; update t set v = 3 where id = 901; commit',
  )
  await client.query('commit')
  await other.query(
    `begin; update t set v = 3 where id = 902; savepoint s; update t set v = 3 where id = 903; prepare transaction 'late'`,
  )
  await client.query('create table u as select 1 as x')
  await client.end()
  await other.end()
}

const uncertain = { timeSeconds: 0, redoLsn: lsn(0), nextOid: 0 }

function write(server: PostgresServer, atLsn: Lsn, bytes: Uint8Array): void {
  const owner = statSync(server.dataDirectory)
  for (let done = 0; done < bytes.length;) {
    const at = advance(atLsn, done)
    const path = join(
      server.dataDirectory,
      'pg_wal',
      walFileName(1, segmentOf(at, WAL_SEGMENT_BYTES), WAL_SEGMENT_BYTES),
    )
    const offset = offsetInSegment(at, WAL_SEGMENT_BYTES)
    const size = Math.min(bytes.length - done, WAL_SEGMENT_BYTES - offset)
    const file = openSync(path, offset === 0 ? 'w+' : 'r+', 0o600)
    writeSync(file, bytes, done, size, offset)
    // Nothing behind it: recycled segments have old content.
    ftruncateSync(file, offset + size)
    ftruncateSync(file, WAL_SEGMENT_BYTES)
    closeSync(file)
    chownSync(path, owner.uid, owner.gid)
    done += size
  }
}

/** Fills WAL with XLOG_NOOP records from `atLsn` until `targetLsn`, where the next record is to begin. */
function fill(
  server: PostgresServer,
  from: { atLsn: Lsn; prevLsn: Lsn },
  targetLsn: Lsn,
  wal: WalIdentity,
): { atLsn: Lsn; prevLsn: Lsn } {
  let { atLsn, prevLsn } = from
  while (atLsn < targetLsn) {
    // Aim at the target; a page header in between makes a record end later, so stay short and fit the last
    // one.
    let size = Math.min(targetLsn - atLsn, 6000)
    if (targetLsn - atLsn - size < 64 && targetLsn - atLsn > 128) size -= 128
    const place = (total: number) =>
      placeRecord(
        atLsn,
        encodeRecord({
          rmid: RM_XLOG_ID,
          info: XLOG_NOOP,
          prevLsn,
          mainData: new Uint8Array(total - (total > 281 ? 29 : 26)),
        }),
        wal,
      )
    let placed = place(size)
    while (placed.nextLsn > targetLsn) placed = place((size -= 8))
    write(server, atLsn, placed.bytes)
    prevLsn = placed.recordLsn
    atLsn = placed.nextLsn
  }
  expect(atLsn).toBe(targetLsn)
  return { atLsn, prevLsn }
}

const pageAfter = (at: Lsn, pages: number): number => (Math.floor(at / 8192) + pages) * 8192
const segmentAfter = (at: Lsn): number => (Math.floor(at / WAL_SEGMENT_BYTES) + 1) * WAL_SEGMENT_BYTES

/** Where the forged record is made to start, given the end of the real WAL. */
const places: Readonly<Record<string, (end: Lsn) => number>> = {
  'right after the last record': (end) => end,
  'across a page boundary': (end) => pageAfter(end, 2) - 48,
  'with a header that crosses a page boundary': (end) => pageAfter(end, 2) - 8,
  'on a page boundary': (end) => pageAfter(end, 2),
  'across a segment boundary': (end) => segmentAfter(end) - 48,
  'on a segment boundary': segmentAfter,
}

describe.each([16, 17, 18] as const)('PostgreSQL %i', (major) => {
  test('the tracker knows what the primary writes when it stops', { timeout: 60_000 }, async () => {
    await using server = await startPostgres({ major, settings, started: false })
    const start = readControl(server)
    await server.start()
    await makeHistory(server)
    await makeLastChanges(server)
    await server.stop()
    const end = readControl(server)
    expect(end).toMatchObject({
      major,
      state: DB_SHUTDOWNED,
      catalogVersion: clusterVersions[major].catalogVersion,
    })
    const tracked = trackAll(server, start)
    expect(tracked.lastInfo & 0xf0).toBe(XLOG_CHECKPOINT_SHUTDOWN)
    expect(tracked.lastLsn).toBe(end.checkpointLsn)
    const real = readCheckPoint(tracked.lastData, 0, major)
    expect(end.checkpoint).toEqual(real)

    const wal = identityOf(end)
    const forge = (state: TrackerState): ReturnType<typeof forgeShutdownCheckpoint> =>
      forgeShutdownCheckpoint({
        state,
        atLsn: tracked.endLsn,
        prevLsn: tracked.lastLsn,
        wal,
        timeSeconds: real.timeSeconds,
      })
    // Before the stop the tracker had everything but the exact next oid, of which 8192 are logged ahead.
    const predicted = readCheckPoint(forge(tracked.before).checkpoint, 0, major)
    expect({ ...predicted, ...uncertain }).toEqual({ ...real, ...uncertain })
    expect(predicted.nextOid - real.nextOid).toBeGreaterThan(0)
    expect(predicted.nextOid - real.nextOid).toBeLessThanOrEqual(8192)
    expect(real.fullPageWrites).toBe(false)
    expect(real.nextMulti).toBeGreaterThan(1)
    expect(real.oldestCommitTsXid).toBeGreaterThan(0)
    // After it, the same to the last byte but for the position.
    const forged = readCheckPoint(forge(tracked.state).checkpoint, 0, major)
    expect({ ...forged, redoLsn: real.redoLsn }).toEqual(real)
    const { walLevel, maxPreparedXacts, trackCommitTimestamp } = end
    expect(tracked.state).toMatchObject({
      walLevel,
      maxPreparedXacts,
      trackCommitTimestamp,
      checkpointLsn: end.checkpointLsn,
    })
    expect(decodeTrackerState(encodeTrackerState(tracked.state))).toEqual(tracked.state)
    checkFiles(server, tracked.state)
  })

  test.each(Object.keys(places))('starts at a forged checkpoint %s', { timeout: 60_000 }, async (place) => {
    await using server = await startPostgres({ major, settings, started: false })
    const killed = await killAtCheckpoint(server)
    const targetLsn = lsn((places[place] as (end: Lsn) => number)(killed.endLsn))
    const end = fill(server, { atLsn: killed.endLsn, prevLsn: killed.lastLsn }, targetLsn, killed.wal)
    const forged = forgeAt(server, killed, end)
    write(server, end.atLsn, forged.bytes)
    await checkStart(server)
    // What it wrote on is one chain with ours.
    expect(trackAll(server, killed.control).endLsn).toBeGreaterThan(forged.nextLsn)
  })

  test.each([
    'right after the last record',
    'on a page boundary',
    'across a segment boundary',
    'on a segment boundary',
  ])('starts with no WAL but a forged checkpoint %s', { timeout: 60_000 }, async (place) => {
    await using server = await startPostgres({ major, settings, started: false })
    const killed = await killAtCheckpoint(server)
    const atLsn = lsn((places[place] as (end: Lsn) => number)(killed.endLsn))
    const forged = forgeAt(server, killed, { atLsn, prevLsn: killed.lastLsn })
    const walDirectory = join(server.dataDirectory, 'pg_wal')
    for (const name of readdirSync(walDirectory).filter((file) => /^[0-9A-F]{24}$/.test(file)))
      rmSync(join(walDirectory, name))
    for (const segment of segmentsForStart(forged, atLsn, killed.wal)) {
      expect(walFileName(1, segmentOf(segment.startLsn, WAL_SEGMENT_BYTES), WAL_SEGMENT_BYTES)).toBe(
        segment.name,
      )
      write(server, segment.startLsn, segment.bytes)
    }
    await checkStart(server)
    // A reader that begins on the checkpoint's page finds it.
    const options = { startLsn: atLsn, from: 'after', major } as const
    for (const record of readRecordsOfSegments(segmentReader(server), options)) {
      expect(record.recordLsn).toBe(forged.recordLsn)
      break
    }
  })
})

interface Killed extends Tracked {
  readonly wal: WalIdentity
  readonly template: Uint8Array
  readonly control: ControlFileValues
}

/** A server whose files and WAL agree, because it was checkpointed without a writer; but it was killed there. */
async function killAtCheckpoint(server: PostgresServer): Promise<Killed> {
  const start = readControl(server)
  await server.start()
  await makeHistory(server)
  await server.kill()
  const template = readFileSync(controlPath(server))
  const control = parseControlFile(template)
  return { ...trackAll(server, start), wal: identityOf(control), template, control }
}

/** Makes the checkpoint and points pg_control to it; the caller puts it into WAL. */
function forgeAt(
  server: PostgresServer,
  killed: Killed,
  end: { atLsn: Lsn; prevLsn: Lsn },
): ForgedCheckpoint {
  const { state, wal, template, control } = killed
  const timeSeconds = control.timeSeconds + 60
  const forged = forgeShutdownCheckpoint({ state, ...end, wal, timeSeconds })
  writeFileSync(controlPath(server), forgedControlFile(template, forged, state, timeSeconds))
  return forged
}

/** It comes up without recovery with everything in it, and what it writes then survives its own crash. */
async function checkStart(server: PostgresServer): Promise<void> {
  await server.start()
  const log = server.log().slice(server.log().lastIndexOf('database system was'))
  expect(log).toContain('database system was shut down at')
  expect(log).not.toMatch(/redo|recovery of|not properly/)
  const client = await server.connect()
  expect((await client.query('select count(*)::int as n from t')).rows).toEqual([{ n: 2020 }])
  await client.query(`commit prepared 'kept'`)
  await client.query('insert into t values (5000, 1)')
  const {
    rows: [after],
  } = await client.query(
    'select count(*)::int as n, count(pg_xact_commit_timestamp(xmin))::int > 0 as stamped from t',
  )
  expect(after).toEqual({ n: 2023, stamped: true })
  await client.query('select pg_switch_wal()')
  await server.kill()
  await server.start()
  const again = await server.connect()
  expect((await again.query('select count(*)::int as n from t')).rows).toEqual([{ n: 2023 }])
}

/** Names of the files that the stopped server has, both ways. */
function checkFiles(server: PostgresServer, state: TrackerState): void {
  const { major, dataDirectory } = server
  const list = (directory: string): string[] => readdirSync(join(dataDirectory, directory))
  for (const directory of dataDirectoriesOf(major))
    expect(statSync(join(dataDirectory, directory)).isDirectory()).toBe(true)
  const [prepared = ''] = list('pg_twophase')
  const xid = parseTwoPhaseName(prepared, major)
  expect(twoPhasePath(xid ?? 0, { epoch: state.nextXidEpoch, xid: state.nextXid }, major)).toBe(
    `pg_twophase/${prepared}`,
  )
  for (const name of [
    'pg_xact/0000',
    'pg_multixact/offsets/0000',
    'pg_multixact/members/0000',
    'pg_commit_ts/0000',
  ]) {
    const segment = parseSlruSegmentPath(name)
    expect(segment && slruSegmentPath(segment.kind, segment.segment)).toBe(name)
    expect(statSync(join(dataDirectory, name)).isFile()).toBe(true)
  }
  expect(parseRelmap(readFileSync(join(dataDirectory, 'global/pg_filenode.map'))).get(1262)).toBe(1262)
  let count = 0
  for (const directory of ['global', ...list('base').map((name) => `base/${name}`)]) {
    for (const name of list(directory).filter((file) => /^\d/.test(file))) {
      const parsed = parseRelationPath(`${directory}/${name}`, major)
      expect(parsed && relationPath(parsed, parsed.fork, parsed.segment, major)).toBe(`${directory}/${name}`)
      count++
    }
  }
  expect(count).toBeGreaterThan(500)
}
