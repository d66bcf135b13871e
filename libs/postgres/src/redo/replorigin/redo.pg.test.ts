/**
 * Goal: the progress of replication origins that records report is what Postgres itself has, after a clean stop and
 * after its own crash recovery. Method: real servers go through every way in which progress moves; redo of their WAL is
 * compared with pg_logical/replorigin_checkpoint, and with what a killed server recovers.
 */
import { join } from 'node:path'
import { readFileSync, readdirSync } from 'node:fs'
import { startPostgres } from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import { readDataDirectory } from '../../../test/data-directory.ts'
import { recordHistory, verifyHistory } from '../../../test/verify-server.ts'
import { parseControlFile } from '../../cluster/control-file.ts'
import type { ControlFileValues } from '../../cluster/control-file.ts'
import { WAL_SEGMENT_BYTES, readRecordsOfSegments, walFileName } from '../../wal/index.ts'
import { RedoVerifier } from '../../verify/redo-verifier.ts'

/** A commit of the session's origin at `remoteLsn`. */
const commitAt = (remoteLsn: string, end = 'commit'): string[] => [
  'begin',
  'insert into t values (1)',
  'savepoint s',
  'insert into t values (2)',
  `select pg_replication_origin_xact_setup('${remoteLsn}', now())`,
  end,
]

const HISTORY: readonly string[] = [
  'create table t (i int)',
  ...['committed', 'prepared', 'forced', 'dropped', 'again', 'aborted', 'high', 'unused'].map(
    (name) => `select pg_replication_origin_create('${name}')`,
  ),
  `select pg_replication_origin_session_setup('committed')`,
  ...commitAt('0/5000'),
  ...commitAt('0/4000'),
  `select pg_replication_origin_session_reset()`,
  `select pg_replication_origin_session_setup('prepared')`,
  ...commitAt('0/1000', `prepare transaction 'p'`),
  ...commitAt('0/6000', `prepare transaction 'q'`),
  'begin',
  'commit',
  `rollback prepared 'p'`,
  `commit prepared 'q'`,
  `select pg_replication_origin_session_reset()`,
  // Aborts move progress, too, those without a record apart.
  `select pg_replication_origin_session_setup('aborted')`,
  ...commitAt('0/7000', `prepare transaction 'r'`),
  'begin',
  `select pg_replication_origin_xact_setup('0/8000', now())`,
  'rollback',
  `rollback prepared 'r'`,
  ...commitAt('0/9000', 'rollback'),
  `select pg_replication_origin_session_reset()`,
  // SQL sets progress by force, forwards and backwards.
  `select pg_replication_origin_advance('forced', '0/9000')`,
  `select pg_replication_origin_advance('forced', '0/100')`,
  `select pg_replication_origin_advance('dropped', '0/9000')`,
  `select pg_replication_origin_drop('dropped')`,
  // The id of an origin that was dropped is given out again.
  `select pg_replication_origin_create('reused')`,
  `select pg_replication_origin_session_setup('reused')`,
  ...commitAt('0/200'),
  `select pg_replication_origin_session_reset()`,
  // A position of another server may be any number.
  `select pg_replication_origin_session_setup('high')`,
  ...commitAt('FFFFFFFF/FFFFFFF0'),
  `select pg_replication_origin_session_reset()`,
  `select pg_replication_origin_session_setup('unused')`,
]

const EXPECTED = {
  committed: '0/5000',
  prepared: '0/6000',
  forced: '0/100',
  aborted: '0/9000',
  reused: '0/200',
  high: 'FFFFFFFF/FFFFFFF0',
}

describe.each([16, 17, 18] as const)('PostgreSQL %i', (major) => {
  test('a clean stop leaves the progress that redo has', { timeout: 60_000 }, async () => {
    await using history = await recordHistory({
      major,
      workload: async ({ client }) => {
        for (const sql of HISTORY) await client.query(sql)
      },
    })
    const verifier = verifyHistory(history)
    expect(verifier.differences).toEqual([])
    expect(verifier.origins.size).toBe(Object.keys(EXPECTED).length)
  })

  test('crash recovery finds the progress that redo has', { timeout: 60_000 }, async () => {
    const settings = { wal_level: 'logical', max_prepared_transactions: 5, wal_keep_size: '1GB' }
    await using server = await startPostgres({ major, settings, started: false })
    const start = parseControlFile(readFileSync(join(server.dataDirectory, 'global', 'pg_control')))
    await server.start()
    const client = await server.connect()
    for (const sql of HISTORY) await client.query(sql)
    await server.kill()
    const origins = redoneOrigins(server.dataDirectory, start)
    await server.start()
    const { rows } = await (
      await server.connect()
    ).query<{ id: number; name: string; at: string; position: string }>(
      `select local_id as id, external_id as name, remote_lsn as at, remote_lsn - '0/0' as position
         from pg_show_replication_origin_status()`,
    )
    expect(Object.fromEntries(rows.map(({ name, at }) => [name, at]))).toEqual(EXPECTED)
    expect(new Map(rows.map(({ id, position }) => [id, BigInt(position)]))).toEqual(origins)
  })
})

/** Of all the WAL that is there. */
function redoneOrigins(directory: string, start: ControlFileValues): Map<number, bigint> {
  const verifier = new RedoVerifier(start, readDataDirectory(directory))
  const names = new Set(readdirSync(join(directory, 'pg_wal')))
  const segment = (number: number): Uint8Array | undefined => {
    const name = walFileName(1, number, WAL_SEGMENT_BYTES)
    return names.has(name) ? readFileSync(join(directory, 'pg_wal', name)) : undefined
  }
  const options = { startLsn: start.checkpoint.redoLsn, major: start.major }
  for (const record of readRecordsOfSegments(segment, options)) verifier.redo(record)
  return verifier.origins
}
