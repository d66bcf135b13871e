/** Makes the proxy's own role again, which a user may have dropped, or taken its rights. */
import { fail } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import { PROXY_ROLE } from './configuration.ts'
import type { Postmaster } from './launcher.ts'
import { endPostmaster, endedError } from './postgres.ts'
import type { PostgresServer, StartOptions } from './server.ts'
import { waitForSql } from './sql.ts'

/** A Postgres that was asked to end is killed after so long. */
const END_MS = 5_000

export interface RoleRepairParts {
  readonly server: PostgresServer
  readonly clock: Clock
  readonly log: Log
}

/**
 * Returns the server that runs then. A server without connections (single-user mode) asks for no role. These files are
 * still fit for a start: no client was let in, and each stop here is a clean one, whose WAL goes to the quorum with
 * what follows.
 */
export async function repairProxyRole(
  { server, clock, log }: RoleRepairParts,
  postmaster: Postmaster,
  options: StartOptions,
): Promise<Postmaster> {
  log.warn('proxy_role_lost', { role: PROXY_ROLE })
  postmaster.signal('SIGINT')
  const timer = clock.setTimer(END_MS, () => postmaster.signal('SIGKILL'))
  const end = await postmaster.exited
  timer.cancel()
  if (end.kind !== 'clean') throw await endedError(server.target.files, end)
  const statements = [
    `create role ${PROXY_ROLE}`,
    `alter role ${PROXY_ROLE} superuser replication login connection limit -1`,
  ]
  await server.runSingleUser(statements, options)
  const again = await server.start(options)
  if (await waitForSql(server.target, clock, again.exited)) return again
  await endPostmaster(again, clock)
  throw fail('precondition', `role "${PROXY_ROLE}" could not be made again`)
}
