/**
 * Goal: the replication client against real servers of every version: what it streams is the server's WAL, keepalives
 * are answered while acknowledgements wait, and a base backup brings every file of the cluster.
 */
import { readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { advance, lsn, segmentOf, segmentStart } from '@understory/base'
import { startPostgres } from '@understory/testcontainers'
import type { PostgresServer } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { WAL_SEGMENT_BYTES, WalStreamDecoder, walFileName } from '../wal/index.ts'
import { ReplicationConnection } from './replication.ts'

const MAJORS = [16, 17, 18] as const

async function server(major: (typeof MAJORS)[number], settings = {}): Promise<PostgresServer> {
  const postgres = await startPostgres({ major, settings })
  onTestFinished(() => postgres[Symbol.asyncDispose]())
  return postgres
}

async function replication(postgres: PostgresServer): Promise<ReplicationConnection> {
  const socket = connect(`${postgres.socketDirectory}/.s.PGSQL.${postgres.port}`)
  const options = { user: 'postgres', applicationName: 'understory' }
  const connection = await ReplicationConnection.open(socket, options, () => Date.now())
  onTestFinished(() => connection.close())
  return connection
}

test.each(MAJORS)(
  'PostgreSQL %d streams its WAL, and waits for acknowledgements at commit',
  async (major) => {
    const postgres = await server(major, {
      synchronous_standby_names: 'understory',
      wal_sender_timeout: '1s',
    })
    const connection = await replication(postgres)
    const { timelineId } = await connection.identifySystem()
    expect(await connection.readSlot('understory')).toBeUndefined()
    await connection.createPhysicalSlot('understory')
    const { restartLsn } = (await connection.readSlot('understory'))!
    expect(await connection.show('wal_segment_size')).toBe('16MB')

    const startLsn = segmentStart(segmentOf(restartLsn, WAL_SEGMENT_BYTES), WAL_SEGMENT_BYTES)
    const stream = await connection.startReplication({ slot: 'understory', startLsn, timelineId })
    const client = await postgres.connect()
    let isCommitted = false
    const commit = client
      .query('create table t as select generate_series(1, 1000)')
      .then(() => (isCommitted = true))

    const decoder = new WalStreamDecoder({ startLsn, findFirst: true, major })
    const parts: Buffer[] = []
    let keepalives = 0
    // Longer than wal_sender_timeout: only answers to its keepalives hold the connection.
    while (keepalives < 4) {
      const message = await stream.next()
      if (message?.kind === 'keepalive') keepalives += message.replyRequested ? 1 : 0
      if (message?.kind !== 'wal') continue
      decoder.push(message.startLsn, message.bytes)
      while (decoder.next());
      parts.push(message.bytes)
    }
    expect(isCommitted).toBe(false)
    stream.report(decoder.recordEndLsn)
    await commit
    const wal = Buffer.concat(parts)
    const file = await readFile(
      join(
        postgres.dataDirectory,
        'pg_wal',
        walFileName(timelineId, segmentOf(startLsn, WAL_SEGMENT_BYTES), WAL_SEGMENT_BYTES),
      ),
    )
    expect(wal.equals(file.subarray(0, wal.length))).toBe(true)
  },
  60_000,
)

test.each(MAJORS)(
  'a clean stop of PostgreSQL %d ends the stream once its last record is acknowledged',
  async (major) => {
    const postgres = await server(major)
    const connection = await replication(postgres)
    const { timelineId, flushLsn } = await connection.identifySystem()
    const stream = await connection.startReplication({ startLsn: flushLsn, timelineId })
    const client = await postgres.connect()
    await client.query('create table t (i int)')
    // A walsender that was asked to stop between CopyBothResponse and its loop ends with an error instead
    // (walsender.c, HandleWalSndInitStopping): its first WAL shows that it is in the loop.
    let message = await stream.next()
    while (message?.kind === 'keepalive') message = await stream.next()
    const stopped = postgres.stop('fast')
    let endLsn = flushLsn
    // The answer to its last keepalive may find it gone: it had all that it waited for, or it would not have ended.
    const next = () =>
      stream.next().catch((error: unknown) => {
        if (/EPIPE|ECONNRESET/.test(String((error as Error).cause))) return undefined
        throw error
      })
    for (; message !== undefined; message = await next()) {
      if (message.kind !== 'wal') continue
      endLsn = advance(message.startLsn, message.bytes.length)
      stream.report(endLsn)
    }
    await stopped
    expect(endLsn).toBeGreaterThan(flushLsn)
  },
  60_000,
)

test.each(MAJORS)(
  'a base backup of PostgreSQL %d has every file',
  async (major) => {
    const postgres = await server(major)
    const client = await postgres.connect()
    await client.query('create table t as select i, repeat($1, 100) from generate_series(1, 10000) i', ['x'])
    await client.query('checkpoint')
    const { rows } = await client.query<{ path: string }>("select pg_relation_filepath('t') as path")
    const path = rows[0]!.path
    const connection = await replication(postgres)
    const sizes = new Map<string, number>()
    const parts: Buffer[] = []
    let [current, startLsn, endLsn] = ['', 0, 0]
    for await (const event of connection.baseBackup('a test')) {
      if (event.kind === 'file') sizes.set((current = event.path), event.size)
      else if (event.kind === 'data' && current === path) parts.push(event.bytes)
      else if (event.kind === 'start') startLsn = event.startLsn
      else if (event.kind === 'end') endLsn = event.endLsn
    }
    expect(endLsn).toBeGreaterThan(startLsn)
    expect(Buffer.concat(parts).equals(await readFile(join(postgres.dataDirectory, path)))).toBe(true)
    expect([...sizes.keys()]).toEqual(
      expect.arrayContaining(['PG_VERSION', 'global/pg_control', 'pg_xact/0000', 'base/5/pg_filenode.map']),
    )
    expect(sizes.get('global/pg_control')).toBe(8192)
    // The connection is as good as before.
    expect((await connection.identifySystem()).flushLsn).toBeGreaterThanOrEqual(endLsn)
  },
  60_000,
)

test('a refusal of Postgres is reported in its words, and the connection continues', async () => {
  const connection = await replication(await server(17))
  await expect(connection.query('NONSENSE')).rejects.toThrow('cannot execute SQL commands')
  await expect(
    connection.startReplication({ slot: 'missing', startLsn: lsn(0x1000000), timelineId: 1 }),
  ).rejects.toThrow('does not exist')
  expect((await connection.identifySystem()).timelineId).toBe(1)
}, 60_000)
