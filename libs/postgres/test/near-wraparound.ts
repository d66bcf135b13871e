/**
 * A stock cluster that stands right before the ends of its number spaces, and work that goes over all of them:
 * transaction ids (into the next epoch), multixact ids and members, the last with more than 2^31 of them live.
 *
 * No server gets there by itself in a test's time. Its counters are moved while it is stopped, as pg_resetwal does:
 * another pg_control, a WAL that begins with its checkpoint, and zeros where the SLRUs now have to have a page. Every
 * leap keeps to what Postgres allows, and VACUUM FREEZE catches up behind it.
 */
import {
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { segmentOf, segmentStart } from '@understory/base'
import type { PostgresServer } from '@understory/testcontainers'
import type { Client } from 'pg'
import { trackerStateOf } from '../src/cluster/checkpoint-tracker.ts'
import type { TrackerState } from '../src/cluster/checkpoint-tracker.ts'
import { CONTROL_FILE_PATH } from '../src/cluster/control-file.ts'
import { forgeShutdownCheckpoint, forgedControlFile, segmentsForStart } from '../src/cluster/forged-start.ts'
import { SLRU_SEGMENT_BYTES, slruPageOf, slruSegmentOf, slruSegmentPath } from '../src/cluster/slru.ts'
import type { SlruKind } from '../src/redo/types.ts'
import { WAL_SEGMENT_BYTES } from '../src/wal/constants.ts'
import { readControlFile } from './data-directory.ts'
import type { WorkloadSession } from './redo-workload.ts'

const CIRCLE = 2 ** 32
/** Prepared transactions are part of the work; the limits keep autovacuum from freezing what the work needs. */
export const NEAR_WRAPAROUND_SETTINGS = {
  max_prepared_transactions: 10,
  track_commit_timestamp: true,
  autovacuum: false,
  autovacuum_freeze_max_age: 2_000_000_000,
  autovacuum_multixact_freeze_max_age: 2_000_000_000,
}
/** Where members begin, so that nearly all of their numbers are live once the work has gone over the end. */
export const NEARLY_ALL_MEMBERS = 100_000_000
/** So that few are; far enough from the end for a truncation to find whole segments. */
export const FEW_MEMBERS = CIRCLE - 400_000
/** More than a segment of members, 32 pages of 1,636. */
const MEMBERS_LEAP = 100_000

type Counters = Partial<Pick<TrackerState, 'nextXid' | 'nextMulti' | 'nextMultiOffset'>>

/** Moves counters of a server that stopped cleanly. */
function leap(server: PostgresServer, counters: Counters): void {
  const { dataDirectory, major } = server
  const { uid, gid } = statSync(dataDirectory)
  const write = (path: string, bytes: Uint8Array): void => {
    const full = join(dataDirectory, path)
    mkdirSync(dirname(full), { recursive: true })
    writeFileSync(full, bytes, { mode: 0o600 })
    chownSync(full, uid, gid)
  }
  const control = readControlFile(dataDirectory)
  const state = { ...trackerStateOf(control), ...counters }
  const timelineId = state.timelineId
  const wal = { major, systemId: control.systemId, timelineId, segmentBytes: WAL_SEGMENT_BYTES }
  const atLsn = segmentStart(segmentOf(control.checkpointLsn, WAL_SEGMENT_BYTES) + 1, WAL_SEGMENT_BYTES)
  const timeSeconds = control.timeSeconds
  const forged = forgeShutdownCheckpoint({ state, atLsn, prevLsn: control.checkpointLsn, wal, timeSeconds })
  for (const name of readdirSync(join(dataDirectory, 'pg_wal')))
    if (/^[0-9A-F]{24}$/.test(name)) rmSync(join(dataDirectory, 'pg_wal', name))
  for (const { name, bytes } of segmentsForStart(forged, atLsn, wal)) write(`pg_wal/${name}`, bytes)
  const template = readFileSync(join(dataDirectory, CONTROL_FILE_PATH))
  write(CONTROL_FILE_PATH, forgedControlFile(template, forged, state, timeSeconds))
  const entries: readonly (readonly [SlruKind, number])[] = [
    ['pg_xact', state.nextXid],
    ['pg_commit_ts', state.nextXid],
    ['pg_multixact/offsets', state.nextMulti],
    ['pg_multixact/members', state.nextMultiOffset],
  ]
  for (const [kind, entry] of entries) {
    const path = slruSegmentPath(kind, slruSegmentOf(slruPageOf(kind, entry)))
    if (!existsSync(join(dataDirectory, path))) write(path, new Uint8Array(SLRU_SEGMENT_BYTES))
  }
}

/** VACUUM of everything in every database, so that the oldest ids follow as far as open transactions let them. */
async function freezeAll(connect: (database: string) => Promise<Client>): Promise<void> {
  const first = await connect('postgres')
  await first.query('alter database template0 allow_connections true')
  const { rows } = await first.query<{ datname: string }>('select datname from pg_database')
  await first.end()
  for (const { datname } of rows) {
    const client = await connect(datname)
    await client.query('vacuum (freeze)')
    await client.end()
  }
}

/**
 * Locks every row of `table`, each in a subtransaction of its own: what another transaction then locks, too, gets a
 * multixact a row, since no two rows have the same holders.
 */
async function beginLocking(client: Client, table: string): Promise<void> {
  await client.query('begin')
  await client.query(`do $$ declare row record; begin
    for row in select id from ${table} loop
      begin perform from ${table} where id = row.id for key share;
      exception when raise_exception then null; end;
    end loop; end $$`)
}

async function lockTwice(client: Client, other: Client, table: string): Promise<void> {
  await beginLocking(client, table)
  await other.query(`begin; select * from ${table} for key share; commit`)
  await client.query('commit')
}

/**
 * Rows of `table` are moved while a transaction that is then prepared as `gid` has a lock on them: whether the old
 * version is seen depends on who the members of its multixact are, as long as both versions are there.
 */
async function moveUnderLock(client: Client, other: Client, table: string, gid: string): Promise<void> {
  await beginLocking(client, table)
  await other.query(`update ${table} set v = v + 1000`)
  await client.query(`prepare transaction '${gid}'`)
}

async function withClients(
  server: PostgresServer,
  work: (one: Client, two: Client) => Promise<void>,
): Promise<void> {
  await server.start()
  const [one, two] = [await server.connect(), await server.connect()]
  await work(one, two)
  await one.end()
  await two.end()
  await server.stop()
}

/**
 * Brings a prepared, stopped server with `NEAR_WRAPAROUND_SETTINGS` to the ends of its number spaces; it is stopped
 * again. `oldestMember`: of the multixacts that are live, NEARLY_ALL_MEMBERS or FEW_MEMBERS.
 */
export async function bringNearWraparound(server: PostgresServer, oldestMember: number): Promise<void> {
  // A leap must not be longer than half a circle.
  for (const id of [1_900_000_000, 3_800_000_000, CIRCLE - 3000]) {
    leap(server, { nextXid: id, nextMulti: id, nextMultiOffset: oldestMember })
    await server.start()
    await freezeAll((database) => server.connect(database))
    await server.stop()
  }
  // Where members leap, ids do so by a few: where the last multixact ends is where the next begins.
  await withClients(server, async (one, two) => {
    for (const table of ['first', 'second', 'third'])
      await one.query(
        `create table ${table} (id int primary key, v int);
         insert into ${table} select g, g from generate_series(1, 50) g`,
      )
    await lockTwice(one, two, 'first')
  })
  leap(server, { nextMulti: CIRCLE - 2000, nextMultiOffset: oldestMember + MEMBERS_LEAP })
  await withClients(server, (one, two) => moveUnderLock(one, two, 'second', 'holds second'))
  leap(server, { nextXid: CIRCLE - 300, nextMulti: CIRCLE - 60, nextMultiOffset: CIRCLE - 100 })
}

/** Goes over every end, one transaction with all of its subtransactions and one that is prepared before among it. */
export async function crossWraparound({ client, connect }: WorkloadSession): Promise<void> {
  const other = await connect()
  await client.query('create table many (i int, v text)')
  await client.query(`begin; insert into many values (-1, 'prepared'); prepare transaction 'before the end'`)
  await lockTwice(client, other, 'first')
  await moveUnderLock(client, other, 'third', 'holds third')
  await client.query(`do $$ begin
    for i in 1..600 loop
      begin insert into many values (i, 'v' || i); if i % 5 = 0 then raise 'undone'; end if;
      exception when raise_exception then null; end;
    end loop; end $$`)
  await client.query(`update many set v = 'u' || i where i % 7 = 0`)
  await lockTwice(client, other, 'first')
}

/**
 * Truncates what lies before what `second` still needs. With nearly all members live, those of `third` are far away.
 */
export const truncateFirst = freezeAll

/** Ends everything that is old, truncates over the ends and begins again. */
export async function truncateRest(connect: (database: string) => Promise<Client>): Promise<void> {
  const [client, other] = [await connect('postgres'), await connect('postgres')]
  for (const gid of ['holds second', 'holds third', 'before the end'])
    await client.query(`commit prepared '${gid}'`)
  await freezeAll(connect)
  await lockTwice(client, other, 'first')
  await client.end()
  await other.end()
}

/** All of the work, from a started server that was brought near the ends. */
export async function goOverTheEnds(session: WorkloadSession): Promise<void> {
  await crossWraparound(session)
  await truncateFirst(session.connect)
  await truncateRest(session.connect)
}

/** What the database says about all of it. Which versions of the rows are seen depends on the members of multixacts. */
export async function answersAfterWraparound(client: Client): Promise<unknown> {
  const queries = [
    ...['first', 'second', 'third'].map((table) => `select id, v from ${table} order by id, v`),
    'select count(*), sum(i), md5(string_agg(v, chr(44) order by i)) from many',
    'select gid, transaction::text from pg_prepared_xacts order by 1',
  ]
  const results: unknown[] = []
  for (const query of queries) results.push((await client.query(query)).rows)
  return results
}
