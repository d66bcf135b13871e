/**
 * The state that the clients and servers of one node share: handed to the code that makes them. Nothing here belongs to
 * a whole process, so that two nodes in one process have two identities, two logs and two sets of certificates.
 */
import { describeBug } from './bug-report.ts'
import type { BugReporter } from './bug-report.ts'
import { CallLog } from './call-log.ts'
import type { Clock, Log } from '@understory/env'
import type { RpcObserver } from './observer.ts'
import type { ClientSecurity, Security, ServerSecurity } from './security.ts'

export interface ClientContext {
  readonly security: ClientSecurity
  /** Undefined where calls are not observed. */
  readonly observer?: RpcObserver | undefined
}

export interface ServerContext {
  readonly security: ServerSecurity
  /** Undefined where calls are not observed. */
  readonly observer?: RpcObserver | undefined
  /** Undefined where changes and refused calls are not logged. */
  readonly callLog?: CallLog | undefined
  readonly reportBug: BugReporter
}

export interface RpcContext {
  readonly client: ClientContext
  readonly server: ServerContext
}

/** Without TLS, token and observer: for tests, and for tools on one machine. */
export const PLAIN_CLIENT: ClientContext = { security: {} }

/** The same for servers, whose handlers' bugs are lines on stderr. */
export const PLAIN_SERVER: ServerContext = {
  security: {},
  reportBug: (error, method) => void process.stderr.write(describeBug(error, method)),
}

/** Of a node: its calls are observed and logged as it says. */
export function rpcContext({
  security,
  observer,
  clock,
  log,
}: {
  readonly security: Security
  readonly observer: RpcObserver | undefined
  readonly clock: Clock
  readonly log: Log
}): RpcContext {
  return {
    client: { security: security.client, observer },
    server: {
      security: security.server,
      observer,
      callLog: new CallLog({ clock, log }),
      reportBug: (error, method) => log.error('rpc_handler_bug', { method, error }),
    },
  }
}
