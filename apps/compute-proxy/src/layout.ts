/**
 * Files of one compute, below its own folder:
 *
 *   pgdata/                 Postgres's data directory: disposable (I4)
 *   configuration.json      postgresql.conf and the like as last seen: the timeline's, kept over rebuilds
 *   pg_hba.managed.conf     who may connect: ours (hba_file on the command line)
 *   start-token             there once PGDATA may be started, taken away by the start
 *   state.json              term of the last election, birth, and the process that was started
 *   postgres.log            what Postgres wrote to its standard error, since its last start or since it
 *                           was cut, when a host keeps what was before in postgres.log.1
 */
import { createHash } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface ComputeFiles {
  readonly root: string
  readonly pgdata: string
  readonly configuration: string
  readonly hba: string
  readonly startToken: string
  readonly state: string
  readonly log: string
  /** Short, because a socket's path may have 107 bytes. */
  readonly sockets: string
}

export function computeFiles(root: string, sockets: string = temporarySockets(root)): ComputeFiles {
  return {
    root,
    pgdata: join(root, 'pgdata'),
    configuration: join(root, 'configuration.json'),
    hba: join(root, 'pg_hba.managed.conf'),
    startToken: join(root, 'start-token'),
    state: join(root, 'state.json'),
    log: join(root, 'postgres.log'),
    sockets,
  }
}

const temporarySockets = (root: string): string =>
  join(tmpdir(), `understory-${createHash('sha256').update(root).digest('hex').slice(0, 12)}`)
