/**
 * TLS and the token between processes. One set for a whole process, read from the environment, because every client and
 * every server of it needs the same; processes that it starts inherit it. Without any of the variables everything is
 * plain, as suits one machine.
 *
 *   UNDERSTORY_TLS_CERT, UNDERSTORY_TLS_KEY   PEM files of this process's own certificate: it serves TLS alone
 *   UNDERSTORY_TLS_CA                         PEM file of the authority that peers' certificates are checked against
 *   UNDERSTORY_TLS_NAME                       name in peers' certificates, where it is not the address they are called by
 *   UNDERSTORY_TOKEN_FILE or UNDERSTORY_TOKEN sent with every call, and demanded of every call but health checks
 */
import { readFileSync } from 'node:fs'
import { hash, timingSafeEqual } from 'node:crypto'
import { describeError, refuse } from '@understory/base'
import { ServerCredentials, credentials } from '@grpc/grpc-js'
import type { CallProperties, ChannelCredentials, ClientOptions, Metadata } from '@grpc/grpc-js'

export interface ClientSecurity {
  /** Sent as `authorization: Bearer …`. */
  readonly token?: string | undefined
  /** Undefined: plain. */
  readonly tls?:
    | {
        /** PEM of the authority; the system's by default. */
        readonly ca?: Buffer | undefined
        /** Name in the server's certificate, where it is not its address. */
        readonly serverName?: string | undefined
      }
    | undefined
}

export interface ServerSecurity {
  readonly token?: string | undefined
  /** PEM. */
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer } | undefined
}

export interface Security {
  readonly client: ClientSecurity
  readonly server: ServerSecurity
}

const PLAIN: Security = { client: {}, server: {} }
let current = PLAIN

/** What this process's clients and servers use unless told otherwise. */
export const currentSecurity = (): Security => current

/** Reads the variables and makes them this process's. Error: refused `bad_argument` that names the variable. */
export function useSecurity(environment: Readonly<Record<string, string | undefined>>): void {
  const file = (name: string): Buffer | undefined => {
    const path = environment[name]
    if (path === undefined || path === '') return undefined
    try {
      return readFileSync(path)
    } catch (cause) {
      throw refuse('bad_argument', `${name}: could not read "${path}"`, {
        detail: describeError(cause),
        hint: 'Name a file that this user may read.',
        cause,
      })
    }
  }
  const [cert, key, ca] = ['CERT', 'KEY', 'CA'].map((name) => file(`UNDERSTORY_TLS_${name}`))
  if ((cert === undefined) !== (key === undefined)) {
    throw refuse('bad_argument', 'of UNDERSTORY_TLS_CERT and UNDERSTORY_TLS_KEY only one is set', {
      hint: 'Set both, or neither.',
    })
  }
  const token = (file('UNDERSTORY_TOKEN_FILE')?.toString() ?? environment['UNDERSTORY_TOKEN'])?.trim()
  if (token === '')
    throw refuse('bad_argument', 'the token is empty', { hint: 'Put a long random text there.' })
  const serverName = environment['UNDERSTORY_TLS_NAME']
  current = {
    client: { token, tls: ca === undefined && cert === undefined ? undefined : { ca, serverName } },
    server: { token, tls: cert === undefined || key === undefined ? undefined : { cert, key } },
  }
}

export function channelCredentials({ tls }: ClientSecurity): ChannelCredentials {
  return tls === undefined ? credentials.createInsecure() : credentials.createSsl(tls.ca ?? null)
}

/** Options of a client that carry the token and the name to check. */
export function securityOptions({ token, tls }: ClientSecurity): Partial<ClientOptions> {
  return {
    ...(tls?.serverName === undefined
      ? {}
      : { 'grpc.ssl_target_name_override': tls.serverName, 'grpc.default_authority': tls.serverName }),
    ...(token === undefined
      ? {}
      : {
          callInvocationTransformer: <Q, S>(call: CallProperties<Q, S>): CallProperties<Q, S> => {
            call.metadata.set('authorization', `Bearer ${token}`)
            return call
          },
        }),
  }
}

export function serverCredentials({ tls }: ServerSecurity): ServerCredentials {
  if (tls === undefined) return ServerCredentials.createInsecure()
  return ServerCredentials.createSsl(null, [{ cert_chain: tls.cert, private_key: tls.key }], false)
}

const digest = (text: string): Buffer => hash('sha256', text, 'buffer')

/** Whether a call carries the token; takes as long for a wrong one as for the right one. */
export function checkToken(token: string): (metadata: Metadata) => void {
  const wanted = digest(`Bearer ${token}`)
  return (metadata) => {
    const given = String(metadata.get('authorization')[0] ?? '')
    if (timingSafeEqual(digest(given), wanted)) return
    throw refuse(
      'unauthenticated',
      given === '' ? 'the call carries no token' : 'the token is not the right one',
      {
        hint: 'Set UNDERSTORY_TOKEN or UNDERSTORY_TOKEN_FILE to the token of this installation.',
      },
    )
  }
}
