/**
 * The certificate by which a Postgres proves itself to its clients: self-signed, ECDSA on P-256, as RFC 5280 has it. It
 * is built here because node:crypto makes keys and signatures and no certificates, and the image of Postgres has no
 * openssl.
 */
import { X509Certificate, createPrivateKey, generateKeyPairSync, sign } from 'node:crypto'
import { isIP } from 'node:net'
import type { Env } from '@understory/env'

/** Both as PEM. */
export interface ServerCertificate {
  readonly certificate: string
  readonly key: string
}

interface CertificateOptions {
  /** Common name, at most 64 characters of ASCII. */
  readonly subject: string
  /** Names of hosts and addresses by which clients call it. */
  readonly names: readonly string[]
  /** Milliseconds since 1970. */
  readonly notBeforeMs: number
  /** Random, 1 to 20 bytes. */
  readonly serial: Uint8Array
}

const DAY_MS = 86_400_000

const SEQUENCE = 0x30
const SET = 0x31
const INTEGER = 0x02
const BIT_STRING = 0x03
const OCTET_STRING = 0x04
const OBJECT_IDENTIFIER = 0x06
const UTF8_STRING = 0x0c
const UTC_TIME = 0x17
const GENERALIZED_TIME = 0x18
/** Context-specific: version and extensions of a certificate, dNSName and iPAddress of a GeneralName. */
const VERSION = 0xa0
const EXTENSIONS = 0xa3
const DNS_NAME = 0x82
const IP_ADDRESS = 0x87

const COMMON_NAME = [2, 5, 4, 3]
const SUBJECT_ALT_NAME = [2, 5, 29, 17]
const EXTENDED_KEY_USAGE = [2, 5, 29, 37]
const SERVER_AUTH = [1, 3, 6, 1, 5, 5, 7, 3, 1]
const ECDSA_WITH_SHA256 = [1, 2, 840, 10045, 4, 3, 2]
/** No end that an operator could miss (RFC 5280, 4.1.2.5): clients that check it have this very certificate. */
const NO_END = '99991231235959Z'

/**
 * For the Postgres of a timeline, by all the names that lead to `host`: a service of Kubernetes is found by its first
 * label from within its namespace.
 */
export function serverCertificate(
  timelineId: string,
  host: string,
  { clock, rng }: Pick<Env, 'clock' | 'rng'>,
): ServerCertificate {
  const labels = isIP(host) === 0 ? host.split('.') : [host]
  const names = labels.map((_, i) => labels.slice(0, i + 1).join('.')).toReversed()
  return selfSignedCertificate({
    subject: `understory ${timelineId}`,
    names: [...new Set([...names, 'localhost', '127.0.0.1', '::1'])],
    // A client's clock may be behind.
    notBeforeMs: clock.wallMs() - DAY_MS,
    serial: rng.bytes(16),
  })
}

export function selfSignedCertificate(options: CertificateOptions): ServerCertificate {
  const { subject, names, notBeforeMs, serial } = options
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const algorithm = der(SEQUENCE, oid(ECDSA_WITH_SHA256))
  const name = der(
    SEQUENCE,
    der(SET, der(SEQUENCE, oid(COMMON_NAME), der(UTF8_STRING, Buffer.from(subject)))),
  )
  const signed = der(
    SEQUENCE,
    der(VERSION, der(INTEGER, Buffer.of(2))),
    // Positive, with any first bit.
    der(INTEGER, Buffer.of(0x01), serial.subarray(0, 19)),
    algorithm,
    name,
    der(SEQUENCE, time(notBeforeMs), der(GENERALIZED_TIME, Buffer.from(NO_END))),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    der(
      EXTENSIONS,
      der(
        SEQUENCE,
        extension(SUBJECT_ALT_NAME, der(SEQUENCE, ...names.map(generalName))),
        extension(EXTENDED_KEY_USAGE, der(SEQUENCE, oid(SERVER_AUTH))),
      ),
    ),
  )
  const signature = der(BIT_STRING, Buffer.of(0), sign('sha256', signed, privateKey))
  const lines =
    der(SEQUENCE, signed, algorithm, signature)
      .toString('base64')
      .match(/.{1,64}/g) ?? []
  return {
    certificate: `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  }
}

/** Whether the two are a certificate and its private key: a server does not start with others. */
export function areAPair(certificate: Uint8Array, key: Uint8Array): boolean {
  try {
    return new X509Certificate(certificate).checkPrivateKey(createPrivateKey(Buffer.from(key)))
  } catch {
    return false
  }
}

function der(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(parts)
  const { length } = content
  const head = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.of(tag, ...head), content])
}

function oid([first = 0, second = 0, ...rest]: readonly number[]): Buffer {
  const bytes = rest.flatMap((arc) => {
    const base128 = [arc & 0x7f]
    for (let left = arc >>> 7; left > 0; left >>>= 7) base128.unshift((left & 0x7f) | 0x80)
    return base128
  })
  return der(OBJECT_IDENTIFIER, Buffer.of(first * 40 + second, ...bytes))
}

const extension = (id: readonly number[], value: Buffer): Buffer =>
  der(SEQUENCE, oid(id), der(OCTET_STRING, value))

/** UTCTime until 2049, GeneralizedTime from then on (RFC 5280, 4.1.2.5). */
function time(ms: number): Buffer {
  const digits = `${new Date(ms).toISOString().replaceAll(/[-:T]|\..*/g, '')}Z`
  return digits < '2050'
    ? der(UTC_TIME, Buffer.from(digits.slice(2)))
    : der(GENERALIZED_TIME, Buffer.from(digits))
}

function generalName(name: string): Buffer {
  switch (isIP(name)) {
    case 4:
      return der(IP_ADDRESS, Buffer.from(name.split('.').map(Number)))
    case 6:
      return der(IP_ADDRESS, ipv6(name))
    default:
      return der(DNS_NAME, Buffer.from(name))
  }
}

function ipv6(address: string): Buffer {
  const [head = '', tail = ''] = address.split('::')
  const groups = (text: string): number[] =>
    text === '' ? [] : text.split(':').map((group) => Number(`0x${group}`))
  const [before, after] = [groups(head), groups(tail)]
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => 0)
  return Buffer.from([...before, ...zeros, ...after].flatMap((group) => [group >> 8, group & 0xff]))
}
