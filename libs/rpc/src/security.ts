/**
 * TLS and the token between processes. A node's clients and servers use one set, which its main reads from the
 * environment; processes that it starts inherit it. Without any of the variables everything is plain, as suits one
 * machine.
 *
 *   UNDERSTORY_TLS_CERT, UNDERSTORY_TLS_KEY   PEM files of this process's own certificate: it serves TLS alone
 *   UNDERSTORY_TLS_CA                         PEM file of the authority that peers' certificates are checked against
 *   UNDERSTORY_TLS_NAME                       name in peers' certificates, where it is not the address they are called
 *                                             by
 *   UNDERSTORY_TOKEN_FILE or UNDERSTORY_TOKEN sent with every call, and demanded of every call but health checks; a file
 *                                             may have several, see token-file.ts
 *   UNDERSTORY_INSECURE=yes                   the network is private: off loopback, too, TLS and token may be missing
 */
import { hash, timingSafeEqual } from 'node:crypto'
import { fail } from '@understory/base'
import { ServerCredentials, credentials, experimental } from '@grpc/grpc-js'
import type { CallProperties, ChannelCredentials, ClientOptions, Metadata } from '@grpc/grpc-js'
import type { Clock, Log } from '@understory/env'
import { CertificateFiles } from './certificate-files.ts'
import { TokenFile, checkToken } from './token-file.ts'

export interface ClientSecurity {
  /** Whether the token may be sent off loopback without TLS. */
  readonly insecure?: boolean | undefined
  /** Sent as `authorization: Bearer …`; of a file the first one there is. */
  readonly token?: string | TokenFile | undefined
  /** Undefined: plain. */
  readonly tls?:
    | {
        /** PEM of the authority, or where it is; the system's by default. */
        readonly ca?: Buffer | CertificateFiles | undefined
        /** Name in the server's certificate, where it is not its address. */
        readonly serverName?: string | undefined
      }
    | undefined
}

export interface ServerSecurity {
  /** Whether it may listen off loopback without TLS or without a token. */
  readonly insecure?: boolean | undefined
  /** Demanded of callers; of a file any of them. */
  readonly token?: string | TokenFile | undefined
  /** PEM, or where it is. */
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer } | CertificateFiles | undefined
}

export interface Security {
  readonly client: ClientSecurity
  readonly server: ServerSecurity
  /** From now on renewed certificates and tokens are used as soon as they are seen, without a restart. */
  watch(seams: { readonly clock: Clock; readonly log: Log }): void
}

const nonEmpty = (text: string | undefined): string | undefined => (text === '' ? undefined : text)

function tokenOf(environment: Readonly<Record<string, string | undefined>>): string | TokenFile | undefined {
  const path = nonEmpty(environment['UNDERSTORY_TOKEN_FILE'])
  if (path !== undefined) return new TokenFile(path)
  const token = environment['UNDERSTORY_TOKEN']?.trim()
  if (token !== undefined) checkToken(token, 'UNDERSTORY_TOKEN')
  return token
}

function insecureOf(value: string | undefined): boolean {
  if (value === 'yes') return true
  if (value === undefined || value === '' || value === 'no') return false
  throw fail('bad_argument', `UNDERSTORY_INSECURE is "${value}"`, {
    hint: 'Set it to "yes", or not at all.',
  })
}

/** Reads the variables. Errors: `bad_argument` that names the variable. */
export function readSecurity(environment: Readonly<Record<string, string | undefined>>): Security {
  const [cert, key, ca] = ['CERT', 'KEY', 'CA'].map((name) => nonEmpty(environment[`UNDERSTORY_TLS_${name}`]))
  if ((cert === undefined) !== (key === undefined)) {
    throw fail('bad_argument', 'of UNDERSTORY_TLS_CERT and UNDERSTORY_TLS_KEY only one is set', {
      hint: 'Set both, or neither.',
    })
  }
  const token = tokenOf(environment)
  const serverName = environment['UNDERSTORY_TLS_NAME']
  const files = cert === undefined && ca === undefined ? undefined : new CertificateFiles({ cert, key, ca })
  const authority = files?.hasAuthority === true ? files : undefined
  const insecure = insecureOf(environment['UNDERSTORY_INSECURE'])
  return {
    client: { insecure, token, tls: files === undefined ? undefined : { ca: authority, serverName } },
    server: { insecure, token, tls: files?.hasIdentity === true ? files : undefined },
    watch({ clock, log }) {
      files?.watch(clock, log)
      if (token instanceof TokenFile) token.watch(clock, log)
    },
  }
}

export function channelCredentials({ tls }: ClientSecurity): ChannelCredentials {
  if (tls === undefined) return credentials.createInsecure()
  if (tls.ca instanceof CertificateFiles)
    return experimental.createCertificateProviderChannelCredentials(tls.ca, null)
  return credentials.createSsl(tls.ca ?? null)
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
            call.metadata.set('authorization', `Bearer ${tokensOf(token)[0]}`)
            return call
          },
        }),
  }
}

export function serverCredentials({ tls }: ServerSecurity): ServerCredentials {
  if (tls === undefined) return ServerCredentials.createInsecure()
  // Its first argument is the provider of the server's own certificate, though its declaration names it otherwise.
  if (tls instanceof CertificateFiles)
    return experimental.createCertificateProviderServerCredentials(tls, null, false)
  return ServerCredentials.createSsl(null, [{ cert_chain: tls.cert, private_key: tls.key }], false)
}

const digest = (text: string): Buffer => hash('sha256', text, 'buffer')

const tokensOf = (token: string | TokenFile): readonly string[] =>
  typeof token === 'string' ? [token] : token.tokens

/**
 * Which of the tokens a call carries, counted from 1. A wrong one takes as long as a right one. Error: refused
 * `unauthenticated`.
 */
export function tokenNumber(metadata: Metadata, token: string | TokenFile): number {
  const given = String(metadata.get('authorization')[0] ?? '')
  const givenDigest = digest(given)
  let number = 0
  for (const [i, one] of tokensOf(token).entries())
    if (timingSafeEqual(givenDigest, digest(`Bearer ${one}`))) number = i + 1
  if (number > 0) return number
  throw fail(
    'unauthenticated',
    given === '' ? 'the call carries no token' : 'the token is not the right one',
    { hint: 'Set UNDERSTORY_TOKEN or UNDERSTORY_TOKEN_FILE to the token of this installation.' },
  )
}
