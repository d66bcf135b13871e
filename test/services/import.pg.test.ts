// Goal: a base backup taken from a running server, together with the WAL of a quorum, gives the server's data directory
// back, page by page: a fuzzy backup heals, and the checkpoint state is that of the server's own pg_control.
// Method: a real Postgres of every version, written to and checkpointed while its backup is read; a real safekeeper;
// two shards behind the pageserver's service; the stopped server's files are the oracle, under Postgres's own masks.
import { createConnection } from 'node:net'
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { formatLsn, offsetInSegment, present } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realClock, silentLog } from '@understory/env'
import {
  ORIGIN_CHECKPOINT_PATH,
  decodeTrackerState,
  parseControlFile,
  parseRelationPath,
  parseSlruSegmentPath,
  tablespaceVersionDirectory,
} from '@understory/postgres/cluster'
import { initialMembership } from '@understory/protocol'
import { PAGE_SIZE, isZeroPage, maskRelationPage, pageOf } from '@understory/postgres/page'
import type { PageKind } from '@understory/postgres/page'
import { FORK_FSM, FORK_VM } from '@understory/postgres/wal'
import { ReplicationConnection } from '@understory/postgres/wire'
import type { BackupEvent } from '@understory/postgres/wire'
import {
  PLAIN_SERVER,
  PLAIN_CLIENT,
  PageserverServiceClient,
  SafekeeperServiceClient,
  callServerStream,
  callUnary,
  createClient,
  startServer,
} from '@understory/rpc'
import {
  freePort,
  startPostgres,
  startProcess,
  temporaryDirectory,
  unprivilegedUser,
} from '@understory/testcontainers'
import type { PostgresMajor, PostgresServer } from '@understory/testcontainers'
import type pg from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { pageserverService } from '../../apps/pageserver/src/serve/api.ts'
import { openBench } from '../../apps/pageserver/test/support.ts'
import { importBaseBackup } from '../../apps/compute-proxy/src/import/import.ts'
import { WalProposer } from '../../apps/compute-proxy/src/wal-proposer/wal-proposer.ts'
import { WalReceiver } from '../../apps/compute-proxy/src/wal-proposer/wal-receiver.ts'

const SEGMENT_BYTES = 16 * 1024 * 1024
const TIMELINE = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }
const LAYOUT = { count: 2, stripeBlocks: 4 }
const SAFEKEEPER = fileURLToPath(new URL('../../apps/safekeeper/src/main.ts', import.meta.url))
const never = new AbortController().signal

async function connectReplication(server: PostgresServer): Promise<ReplicationConnection> {
  const socket = createConnection(`${server.socketDirectory}/.s.PGSQL.${server.port}`)
  const connection = await ReplicationConnection.open(
    socket,
    { user: 'postgres', applicationName: 'understory' },
    () => realClock.wallMs(),
  )
  onTestFinished(() => connection.close())
  return connection
}

async function run(client: pg.Client, statements: readonly string[]): Promise<void> {
  for (const statement of statements) await client.query(statement)
}

/** Everything that a backup can hold: forks, segments of SLRUs, maps, a tablespace, prepared and unlogged things. */
async function fill(client: pg.Client, tablespace: string): Promise<void> {
  await run(client, [
    `create tablespace apart location '${tablespace}'`,
    'create table big (id int primary key, t text, n int) with (fillfactor = 80)',
    'insert into big select g, md5(g::text), 0 from generate_series(1, 20000) g',
    'vacuum (freeze) big',
    'create table moved (id int primary key) tablespace apart',
    'insert into moved select generate_series(1, 1000)',
    'create unlogged table gone (id int primary key)',
    'insert into gone values (1)',
    'create table empty (id int)',
    'create table doomed (id int)',
    'insert into doomed select generate_series(1, 5000)',
    'create database other tablespace apart',
    'vacuum full pg_class',
    'begin',
    'insert into big values (-1, null, 0)',
    "prepare transaction 'stays'",
    'begin',
    'insert into big values (-2, null, 0)',
    "prepare transaction 'ends'",
    'begin',
    'savepoint s',
    'select * from big where id = 3 for share',
    'savepoint t',
    'update big set n = 1 where id = 3',
    'commit',
  ])
}

/** A transaction by which a replication origin comes to `position`. */
const advancing = (origin: string, position: number): string[] => [
  `select pg_replication_origin_session_setup('${origin}')`,
  `begin; insert into origins values (1); select pg_replication_origin_xact_setup('0/${position}', now()); commit`,
  'select pg_replication_origin_session_reset()',
]

/** The backup, with the server written to, vacuumed and checkpointed while it is read. */
async function* disturbed(
  backup: AsyncIterable<BackupEvent>,
  client: pg.Client,
): AsyncGenerator<BackupEvent, void, void> {
  let files = 0
  for await (const event of backup) {
    yield event
    if (event.kind !== 'file') continue
    files++
    if (files % 50 === 0) {
      const id = files
      await run(client, [
        `update big set n = n + 1, t = md5(t) where id % 97 = ${id % 97}`,
        `create table late${id} (id int primary key)`,
        `insert into late${id} select generate_series(1, 500)`,
        `drop table if exists late${Math.max(0, id - 100)}`,
      ])
    }
    if (files === 100)
      await run(client, ["commit prepared 'ends'", 'drop table doomed', 'delete from big where id > 15000'])
    // Before the backup comes to the file of replication origins, and after it.
    if (files % 100 === 0) await run(client, advancing('advanced', files))
    if (files === 100) await run(client, ["select pg_replication_origin_drop('dropped')"])
    if (files === 200)
      await run(client, ['checkpoint', 'vacuum big', 'create database during template template0'])
    if (files === 400)
      await run(client, [
        'vacuum full pg_proc',
        'checkpoint',
        'truncate moved',
        'insert into moved values (7)',
      ])
  }
}

async function filesOf(root: string, major: PostgresMajor): Promise<string[]> {
  const folders = [root]
  for (const oid of await readdir(join(root, 'pg_tblspc')))
    folders.push(join(root, 'pg_tblspc', oid, tablespaceVersionDirectory(major)))
  const paths: string[] = []
  for (const folder of folders) {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true })
    for (const entry of entries)
      if (entry.isFile()) paths.push(join(entry.parentPath, entry.name).slice(root.length + 1))
  }
  return paths
}

/** By the size of the page's special space; only these kinds are here but for the catalogs' sequences. */
function kindOf(page: Buffer): PageKind {
  const special = PAGE_SIZE - page.readUInt16LE(16)
  return special === 16 ? 'btree' : special === 8 ? 'sequence' : 'heap'
}

/** `isMapLost`: the visibility map may be empty. */
function comparePage(
  fork: number,
  block: number,
  expected: Buffer,
  actual: Buffer,
  isMapLost: boolean,
): string | undefined {
  if (isZeroPage(expected) && isZeroPage(actual)) return undefined
  const lsns = [expected, actual].map((page) =>
    formatLsn((page.readUInt32LE(0) * 2 ** 32 + page.readUInt32LE(4)) as Lsn),
  )
  if (lsns[0] !== lsns[1]) return `pd_lsn is ${lsns[1]}, not ${lsns[0]}`
  if (fork === FORK_VM) {
    const isSame = expected.subarray(24).equals(actual.subarray(24))
    return isSame || (isMapLost && actual.subarray(24).every((byte) => byte === 0))
      ? undefined
      : 'visibility bits differ'
  }
  if (kindOf(expected) === 'sequence') return undefined
  const [a, b] = [Buffer.from(expected), Buffer.from(actual)]
  maskRelationPage(kindOf(expected), pageOf(a), block)
  maskRelationPage(kindOf(expected), pageOf(b), block)
  const at = a.findIndex((byte, i) => byte !== b[i])
  return at < 0 ? undefined : `byte ${at} is ${b[at]}, not ${a[at]}`
}

test.each([16, 17, 18] as const)(
  'PostgreSQL %d: a fuzzy base backup and the WAL give every page back',
  async (major) => {
    await using directory = await temporaryDirectory()
    await using apart = await temporaryDirectory({ prefix: 'ts', owner: unprivilegedUser() })
    const settings = {
      max_prepared_transactions: 4,
      track_commit_timestamp: true,
      autovacuum: false,
      checkpoint_timeout: '1h',
      max_wal_size: '4GB',
    }
    await using server = await startPostgres({ major, settings })
    const client = await server.connect()
    await fill(client, apart.path)
    await run(client, ['create table origins (i int)'])
    for (const origin of ['untouched', 'dropped', 'advanced'])
      await run(client, [`select pg_replication_origin_create('${origin}')`, ...advancing(origin, 50)])

    const port = await freePort()
    await using _safekeeper = await startProcess({
      name: 'safekeeper',
      command: process.execPath,
      args: [
        SAFEKEEPER,
        '--node-id',
        'safekeeper-1',
        '--data-dir',
        join(directory.path, 'safekeeper'),
        '--listen',
        `127.0.0.1:${port}`,
      ],
      ready: /"event":"started"/,
    })
    const safekeepers = [`127.0.0.1:${port}`]
    await using bench = await openBench(directory.path)
    const rpc = await startServer(PLAIN_SERVER, {
      host: '127.0.0.1',
      port: 0,
      services: [pageserverService(bench.registry, realClock)],
    })
    onTestFinished(() => rpc.stop(0))
    const pageserver = createClient(PLAIN_CLIENT, PageserverServiceClient, rpc.address)
    onTestFinished(() => pageserver.close())

    // A timeline on the safekeeper, a quorum of one, and the server's WAL into it.
    const replication = await connectReplication(server)
    const { systemId, timelineId } = await replication.identifySystem()
    await replication.createPhysicalSlot('understory')
    const { restartLsn } = present(await replication.readSlot('understory'), 'slot')
    const slotLsn = (restartLsn - offsetInSegment(restartLsn, SEGMENT_BYTES)) as Lsn
    const postgres = { major, systemId, pgTimelineId: timelineId, walSegmentBytes: SEGMENT_BYTES }
    const safekeeper = createClient(
      PLAIN_CLIENT,
      SafekeeperServiceClient,
      present(safekeepers[0], 'safekeeper'),
    )
    onTestFinished(() => safekeeper.close())
    await callUnary(safekeeper.createTimeline.bind(safekeeper), {
      timeline: TIMELINE,
      postgres,
      startLsn: BigInt(slotLsn),
    })
    const proposer = new WalProposer({
      rpc: PLAIN_CLIENT,
      timeline: TIMELINE,
      postgres,
      membership: initialMembership(safekeepers),
      nodeId: 'test',
      timelineStartLsn: slotLsn,
      livingTerm: undefined,
      ownTerm: undefined,
      rememberTerm: () => undefined,
      contactTimeoutMs: 20_000,
      clock: realClock,
      log: silentLog,
    })
    onTestFinished(() => proposer.close())
    await proposer.elected
    const stream = await replication.startReplication({ slot: 'understory', startLsn: slotLsn, timelineId })
    const standby = new WalReceiver(stream, proposer, slotLsn, undefined, SEGMENT_BYTES, realClock)
    const streaming = standby.run()
    streaming.catch(() => undefined)

    const refs = [0, 1].map((number) => ({ timeline: TIMELINE, shard: { ...LAYOUT, number } }))
    const imageGeneration = { enabled: true, thresholdRecords: 8 }
    for (const ref of refs) {
      await callUnary(pageserver.attachShard.bind(pageserver), {
        ...ref,
        rollback: undefined,
        generation: 1n,
        postgres,
        create: true,
        safekeepers,
        imageGeneration,
      })
    }
    const backupConnection = await connectReplication(server)
    const imported = await importBaseBackup({
      rpc: PLAIN_CLIENT,
      backup: disturbed(backupConnection.baseBackup('test'), client),
      major,
      layout: LAYOUT,
      pageservers: [rpc.address, rpc.address],
      timeline: TIMELINE,
      signal: never,
    })
    expect(imported).toMatchObject({ systemId, timelineId, unknownPaths: [] })
    expect([...imported.configuration.keys()].sort()).toEqual([
      'pg_hba.conf',
      'pg_ident.conf',
      'postgresql.auto.conf',
      'postgresql.conf',
    ])
    // pg_control came after a checkpoint that the backup did not begin with.
    expect(imported.control.checkpoint.redoLsn).toBeGreaterThan(imported.startLsn)
    await proposer.waitForCommit(imported.endLsn)
    expect(await imported.finish()).toBeGreaterThan(1000)

    await run(client, [
      'update big set n = n + 1 where id % 10 = 0',
      'create table after_all (id int)',
      'insert into after_all values (1)',
    ])
    // CREATE DATABASE with strategy wal_log logs visibility maps as if their content were a hole (bufmgr.c
    // RelationCopyStorageUsingBuffer, 17.11): stock recovery loses these bits too.
    const { rows } = await client.query<{ oid: number }>(
      "select oid::int from pg_database where datname = 'during'",
    )
    const mapsLostOid = rows[0]?.oid
    await server.stop()
    await streaming
    const endLsn = proposer.commitLsn

    const root = server.dataDirectory
    const control = parseControlFile(await readFile(join(root, 'global/pg_control')))
    const state = await callUnary(pageserver.getControlState.bind(pageserver), {
      ...present(refs[0], 'shard'),
      lsn: BigInt(endLsn),
    })
    const {
      nextXid,
      nextOid,
      nextMulti,
      nextMultiOffset,
      oldestXid,
      oldestMulti,
      oldestCommitTsXid,
      newestCommitTsXid,
    } = control.checkpoint
    expect(decodeTrackerState(state.tracker)).toMatchObject({
      checkpointLsn: control.checkpointLsn,
      checkpointIsShutdown: true,
      nextXid: Number(nextXid),
      nextOid,
      nextMulti,
      nextMultiOffset,
      oldestXid,
      oldestMulti,
      oldestCommitTsXid,
      newestCommitTsXid,
      trackCommitTimestamp: true,
    })

    const files = new Map<string, Buffer>()
    const tablespaces: string[] = []
    for (const ref of refs) {
      for await (const { piece } of callServerStream(pageserver.streamFiles.bind(pageserver), {
        ...ref,
        lsn: BigInt(endLsn),
        after: Buffer.alloc(0),
      })) {
        if (piece?.$case === 'tablespace') tablespaces.push(piece.value.location)
        if (piece?.$case !== 'file') continue
        const { path, offset, data, size } = piece.value
        const known = files.get(path) ?? Buffer.alloc(0)
        const length = Math.max(known.length, Number(size), Number(offset) + data.length)
        const file =
          length > known.length ? Buffer.concat([known, Buffer.alloc(length - known.length)]) : known
        data.copy(file, Number(offset))
        files.set(path, file)
      }
    }
    expect(tablespaces).toEqual([apart.path])

    const found: string[] = []
    let compared = 0
    const paths = await filesOf(root, major)
    for (const path of paths) {
      const relation = parseRelationPath(path, major)
      const bytes = await readFile(join(root, path))
      const actual = files.get(path)
      const isUnlogged = files.has(path.replace(/(_fsm|_vm|_init)?$/, '_init')) && relation?.fork !== 3
      if (relation !== undefined && relation.fork !== FORK_FSM && !isUnlogged) {
        for (let block = 0; block * PAGE_SIZE < bytes.length; block++) {
          const expected = bytes.subarray(block * PAGE_SIZE, (block + 1) * PAGE_SIZE)
          const part = actual?.subarray(block * PAGE_SIZE, (block + 1) * PAGE_SIZE)
          const what = comparePage(
            relation.fork,
            block,
            expected,
            part?.length === PAGE_SIZE ? part : Buffer.alloc(PAGE_SIZE),
            relation.dbOid === mapsLostOid,
          )
          if (what !== undefined) found.push(`${path} block ${block}: ${what}`)
          compared++
        }
      } else if (
        parseSlruSegmentPath(path) !== undefined ||
        path.startsWith('pg_twophase/') ||
        path === ORIGIN_CHECKPOINT_PATH ||
        /pg_filenode\.map$|PG_VERSION$/.test(path)
      ) {
        const isSame = actual !== undefined && actual.subarray(0, bytes.length).equals(bytes)
        if (!isSame) found.push(`${path}: ${actual?.length ?? 'no'} bytes, not ${bytes.length}`)
        compared++
      }
    }
    for (const [path, { length }] of files) {
      const fork = parseRelationPath(path, major)?.fork
      if (fork !== FORK_FSM && length > 0 && !paths.includes(path)) found.push(`${path} is only in storage`)
    }
    expect(found.slice(0, 20)).toEqual([])
    expect(compared).toBeGreaterThan(1500)
    expect(bench.errors).toEqual([])
  },
)
