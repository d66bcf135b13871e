/**
 * WAL to be redone, and what it is redone on: the data directory as it was at a checkpoint before the load, with the
 * WAL from there to a crash. All of it in memory (/dev/shm).
 */
import { cp, mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fail } from '@understory/base'
import { runCommand, startPostgres } from '@understory/testcontainers'
import type { PostgresMajor, PostgresServer } from '@understory/testcontainers'
import type pg from 'pg'
import { loadTpcc, runWorkload, tpcc } from '../workloads/index.ts'

export type Load = 'tpcc' | 'insert'

export interface WalSource {
  readonly major: PostgresMajor
  readonly load: Load
  readonly fullPageWrites: boolean
  /** Crashed: the files of the checkpoint, the WAL up to the crash. Never started itself. */
  readonly directory: string
  readonly walBytes: number
}

const TPCC_SECONDS_A_ROUND = 10
const CLIENTS = 4
const INSERT_ROWS_A_ROUND = 100_000

async function walPosition(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ bytes: string }>(
    `select pg_current_wal_lsn() - '0/0'::pg_lsn as bytes`,
  )
  return Number(rows[0]?.bytes)
}

async function loadTables(server: PostgresServer, client: pg.Client, load: Load): Promise<void> {
  if (load === 'tpcc') await loadTpcc({ connectionString: server.connectionString, warehouses: 2, seed: 1 })
  else
    await client.query(`create table events (id bigserial primary key, device int not null,
      at timestamptz not null default now(), reading text not null)`)
}

async function runRound(server: PostgresServer, client: pg.Client, load: Load, round: number): Promise<void> {
  if (load === 'tpcc') {
    await runWorkload(tpcc, {
      connectionString: server.connectionString,
      clients: CLIENTS,
      durationMs: TPCC_SECONDS_A_ROUND * 1000,
      seed: round,
    })
  } else {
    await client.query(`insert into events (device, reading)
      select g % 1000, md5(g::text) || md5((g * 7)::text) from generate_series(1, ${INSERT_ROWS_A_ROUND}) g`)
  }
}

/** Runs the load until there are `megabytes` of WAL. */
export async function makeWal(
  options: Omit<WalSource, 'directory' | 'walBytes'> & {
    readonly folder: string
    readonly megabytes: number
  },
): Promise<WalSource> {
  const { major, load, fullPageWrites, folder, megabytes } = options
  const captured = await captureWal({
    major,
    folder,
    fullPageWrites,
    dataChecksums: false,
    prepare: (client, server) => loadTables(server, client, load),
    write: async (client, server) => {
      const start = await walPosition(client)
      for (let round = 1; (await walPosition(client)) - start < megabytes * 1e6; round++) {
        if (round > 1000) throw fail('precondition', 'the load writes no WAL')
        await runRound(server, client, load, round)
      }
    },
  })
  return { major, load, fullPageWrites, ...captured }
}

export interface CaptureOptions {
  readonly major: PostgresMajor
  /** Made; `base` below it is the result. */
  readonly folder: string
  readonly fullPageWrites: boolean
  readonly dataChecksums: boolean
  /** Makes the data that the checkpoint has. */
  readonly prepare: (client: pg.Client, server: PostgresServer) => Promise<void>
  /** Writes the WAL. */
  readonly write: (client: pg.Client, server: PostgresServer) => Promise<void>
}

/** The files of the checkpoint between `prepare` and `write`, with the WAL from there to a crash after `write`. */
export async function captureWal(
  options: CaptureOptions,
): Promise<Pick<WalSource, 'directory' | 'walBytes'>> {
  const { major, folder, fullPageWrites, dataChecksums, prepare, write } = options
  const live = join(folder, 'live')
  const directory = join(folder, 'base')
  await mkdir(folder, { recursive: true })
  await using server = await startPostgres({
    major,
    dataDirectory: live,
    dataChecksums,
    settings: {
      full_page_writes: fullPageWrites,
      synchronous_commit: false,
      autovacuum: false,
      shared_buffers: '1GB',
      max_wal_size: '100GB',
      checkpoint_timeout: '1d',
      wal_keep_size: '100GB',
      wal_recycle: false,
    },
  })
  const client = await server.connect()
  await prepare(client, server)
  await client.query('checkpoint')
  const start = await walPosition(client)
  // There is no writer now: the files are those of the checkpoint.
  await cp(live, directory, {
    recursive: true,
    filter: (path) => !/postmaster\.(pid|opts)$|pg_wal\//.test(path),
  })
  await write(client, server)
  const walBytes = (await walPosition(client)) - start
  await client.query('select pg_switch_wal()')
  await server.stop('immediate')
  await rm(join(directory, 'pg_wal'), { recursive: true, force: true })
  await runCommand({ name: 'mv', command: 'mv', args: [join(live, 'pg_wal'), join(directory, 'pg_wal')] })
  await rm(live, { recursive: true, force: true })
  return { directory, walBytes }
}
