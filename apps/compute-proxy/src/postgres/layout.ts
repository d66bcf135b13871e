/**
 * Files of one compute, by who may do what with them. Postgres's own user runs what a superuser of the tenant likes.
 *
 *   shared/   Postgres's user may write here, and so put anything in the place of anything
 *     pgdata/               Postgres's data directory: disposable (I4)
 *     sockets/              where the proxy reaches it; short, because a socket's path may have 107 bytes
 *     start-token           there once PGDATA may be started, taken away by the start
 *     postgres.log          what Postgres wrote to its standard error, since its last start or since it was cut, when a
 *                           host keeps what was before in postgres.log.1
 *     answers/              of a sidecar container (sidecar-launcher.ts)
 *   orders/   Postgres's user reads here, and writes nothing
 *     pg_hba.managed.conf   who may connect: ours (hba_file on the command line)
 *     run.sh, request, …    for a sidecar container
 *   own/      Postgres's user has nothing to do here
 *     configuration.json    postgresql.conf and the like as last seen: the timeline's, kept over rebuilds
 *     state.json            term of the last election, bootstrap, the port of Postgres, and which one may be adopted
 *     lease                 of a host's Postgres (lease.ts)
 *     spec                  what is wanted, of a pod
 *
 * In a pod these are three volumes. On a host the first two are one folder, in which no other user may write: `pgdata`
 * and `sockets` belong to Postgres's user there. The third is below it, for this user alone.
 */
import { join } from 'node:path'

export interface ComputeFiles {
  readonly shared: string
  readonly orders: string
  readonly own: string
  readonly pgdata: string
  readonly configuration: string
  readonly hba: string
  readonly startToken: string
  readonly state: string
  readonly spec: string
  /** FIFO: who holds it keeps Postgres alive (lease.ts). */
  readonly lease: string
  readonly log: string
  readonly sockets: string
  /** Of server.key, where this process cannot read that itself. */
  readonly keyCopy: string | undefined
}

/** As Postgres names its socket (pqcomm.h, UNIXSOCK_PATH). */
export const socketName = (port: number): string => `.s.PGSQL.${port}`

export const hostFiles = (root: string): ComputeFiles => ({
  ...podFiles({ shared: root, orders: root, own: join(root, 'own') }),
  keyCopy: undefined,
})

export function podFiles(folders: Pick<ComputeFiles, 'shared' | 'orders' | 'own'>): ComputeFiles {
  const { shared, orders, own } = folders
  return {
    ...folders,
    pgdata: join(shared, 'pgdata'),
    configuration: join(own, 'configuration.json'),
    hba: join(orders, 'pg_hba.managed.conf'),
    startToken: join(shared, 'start-token'),
    state: join(own, 'state.json'),
    spec: join(own, 'spec'),
    lease: join(own, 'lease'),
    log: join(shared, 'postgres.log'),
    sockets: join(shared, 'sockets'),
    keyCopy: join(shared, 'answers/server.key'),
  }
}
