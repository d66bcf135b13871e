/**
 * The configuration with which a data directory starts by itself, on this machine alone. WAL does not carry it, so it
 * says as little as it can: what pg_control demands, and who may connect.
 */
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import type { TrackerState } from '@understory/postgres/cluster'
import { diskError } from '@understory/env'
import type { FileOwner } from './data-directory.ts'

export interface StandaloneConfiguration {
  /** Minima: a hot standby refuses less, and prepared transactions need their slots. */
  readonly state: Readonly<TrackerState>
  /** More lines for postgresql.conf. */
  readonly settings?: Readonly<Record<string, string | number | boolean>>
  readonly owner?: FileOwner | undefined
}

const HBA = `# TYPE  DATABASE  USER  ADDRESS       METHOD
local   all       all                 trust
host    all       all   127.0.0.1/32  trust
host    all       all   ::1/128       trust
`

/** Writes postgresql.conf, postgresql.auto.conf, pg_hba.conf and pg_ident.conf, durably. */
export async function writeStandaloneConfiguration(
  directory: string,
  { state, settings = {}, owner }: StandaloneConfiguration,
): Promise<void> {
  const fromWal = {
    max_connections: state.maxConnections,
    max_worker_processes: state.maxWorkerProcesses,
    max_wal_senders: state.maxWalSenders,
    max_prepared_transactions: state.maxPreparedXacts,
    max_locks_per_transaction: state.maxLocksPerXact,
    track_commit_timestamp: state.trackCommitTimestamp,
    wal_log_hints: state.walLogHints,
  }
  const files = {
    'postgresql.conf': `# Made by Understory. The server listens on this machine alone.\n${lines({
      listen_addresses: 'localhost',
      ...settings,
    })}`,
    'postgresql.auto.conf': `# As the WAL says of the primary.\n${lines(fromWal)}`,
    'pg_hba.conf': HBA,
    'pg_ident.conf': '# MAPNAME  SYSTEM-USERNAME  PG-USERNAME\n',
  }
  try {
    for (const [name, text] of Object.entries(files)) {
      const path = join(directory, name)
      await using file = await open(path, 'w', 0o600)
      await file.chmod(0o600)
      if (owner !== undefined) await file.chown(owner.uid, owner.gid)
      await file.writeFile(text)
      await file.sync()
    }
    await using folder = await open(directory, 'r')
    await folder.sync()
  } catch (error) {
    throw diskError(error, `write the configuration of "${directory}"`)
  }
}

const lines = (settings: Readonly<Record<string, string | number | boolean>>): string =>
  Object.entries(settings)
    .map(([name, value]) => `${name} = ${literal(value)}\n`)
    .join('')

const literal = (value: string | number | boolean): string =>
  typeof value === 'boolean'
    ? value
      ? 'on'
      : 'off'
    : typeof value === 'number'
      ? String(value)
      : `'${value.replaceAll("'", "''")}'`
