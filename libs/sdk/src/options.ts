/** The options of a client. */
import { X509Certificate } from 'node:crypto'
import { fail } from '@understory/base'
import { isLoopback } from '@understory/rpc'
import { readDuration, readName, readOptions, readWholeNumber } from './arguments.ts'

export interface ClientOptions {
  /** host:port of the control plane. */
  readonly endpoint: string
  /** Milliseconds that a call may take, with all its tries, unless it says otherwise; 30,000 by default. */
  readonly deadlineMs?: number | undefined
  /** How often a call that met passing trouble is made again, each time after a longer pause; 5 by default. */
  readonly retries?: number | undefined
  /** Of the installation, where it demands one. */
  readonly token?: string | undefined
  /** Where the installation speaks TLS; `{}` trusts the system's authorities. */
  readonly tls?: TlsOptions | undefined
  /** Sends the token without TLS to other machines, too: only where the network is private. */
  readonly insecure?: boolean | undefined
}

export interface TlsOptions {
  /** The authority's certificate, as the text or bytes of a PEM file; the system's authorities by default. */
  readonly ca?: string | Uint8Array | undefined
  /** Name in the servers' certificates, where it is not the address they are called by. */
  readonly serverName?: string | undefined
}

/** How to speak to the installation; plain, without a token, where undefined. */
export interface Credentials {
  readonly insecure?: boolean
  readonly token?: string
  readonly tls?: { readonly ca?: Buffer; readonly serverName?: string }
}

export interface ClientSettings {
  readonly endpoint: string
  readonly deadlineMs: number
  readonly retries: number
  readonly credentials: Credentials | undefined
}

const DEADLINE_DEFAULT_MS = 30_000
/** Over some two seconds: a control plane that is started again is waited for. */
const RETRIES_DEFAULT = 5

export function readClientOptions(options: ClientOptions): ClientSettings {
  const { endpoint, deadlineMs, retries, token, tls, insecure } = readOptions('options', options)
  const address = readEndpoint(endpoint)
  if (token !== undefined && tls === undefined && insecure !== true && !isLoopback(address)) {
    throw fail('bad_argument', `the token would be sent to ${address} without TLS`, {
      hint: 'Give `tls`; where the network is private, `insecure: true`.',
    })
  }
  return {
    endpoint: address,
    deadlineMs: deadlineMs === undefined ? DEADLINE_DEFAULT_MS : readDuration('deadlineMs', deadlineMs),
    retries: retries === undefined ? RETRIES_DEFAULT : readWholeNumber('retries', retries),
    credentials:
      token === undefined && tls === undefined
        ? undefined
        : {
            ...(token === undefined ? {} : { token: readToken(token) }),
            ...(tls === undefined ? {} : { tls: readTls(tls) }),
            ...(insecure === true ? { insecure } : {}),
          },
  }
}

function readEndpoint(endpoint: unknown): string {
  const [, host, port] = /^(\[[\da-f:.%]+\]|[^\s:/[\]]+):(\d{1,5})$/i.exec(String(endpoint)) ?? []
  if (host !== undefined && Number(port) > 0 && Number(port) <= 0xffff) return `${host}:${port}`
  throw fail('bad_argument', `endpoint ${JSON.stringify(endpoint)} is not the address of a control plane`, {
    hint: 'Write it as host:port, such as 127.0.0.1:7400, without a scheme.',
  })
}

/** What HTTP takes as a header. */
function readToken(token: unknown): string {
  if (typeof token === 'string' && /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(token)) return token
  throw fail('bad_argument', 'the token is empty, or has what no token has', {
    hint: 'Trim it: a file often ends in a line feed. Without a token leave `token` out.',
  })
}

function readTls(tls: TlsOptions): NonNullable<Credentials['tls']> {
  const { ca, serverName } = readOptions('tls', tls)
  return {
    ...(ca === undefined ? {} : { ca: readAuthority(ca) }),
    ...(serverName === undefined ? {} : { serverName: readName('tls.serverName', serverName) }),
  }
}

function readAuthority(ca: string | Uint8Array): Buffer {
  try {
    const pem = typeof ca === 'string' ? Buffer.from(ca) : Buffer.from(ca.buffer, ca.byteOffset, ca.length)
    void new X509Certificate(pem)
    return pem
  } catch (cause) {
    throw fail('bad_argument', 'tls.ca is not a certificate', {
      hint: 'Give what is in the PEM file, not its path.',
      cause,
    })
  }
}
