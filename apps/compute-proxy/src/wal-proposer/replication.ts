/** Replication connections to the local Postgres, as the proxy's own role over its socket. */
import type { Socket } from 'node:net'
import { fail } from '@understory/base'
import { realClock, socketWithin } from '@understory/env'
import { ReplicationConnection } from '@understory/postgres/wire'
import { PROXY_ROLE, STANDBY_NAME } from '../postgres/configuration.ts'
import { socketName } from '../postgres/layout.ts'
import type { SqlTarget } from '../postgres/sql.ts'

/** Positions are reported every second; a user's own time-out may be shorter than that. */
const SESSION_OPTIONS = '-c wal_sender_timeout=60s'

/** The caller closes it. Errors: `unavailable` while no server listens. */
export async function connectReplication({ files, port }: SqlTarget): Promise<ReplicationConnection> {
  const socket = await new Promise<Socket>((resolve, reject) => {
    const opened = socketWithin(files.sockets, socketName(port))
    opened.once('error', reject)
    opened.connect().once('connect', () => resolve(opened))
  }).catch((cause: unknown) => {
    throw fail('unavailable', `could not connect to port ${port} in "${files.sockets}"`, { cause })
  })
  const options = { user: PROXY_ROLE, applicationName: STANDBY_NAME, options: SESSION_OPTIONS }
  return ReplicationConnection.open(socket, options, () => realClock.wallMs())
}
