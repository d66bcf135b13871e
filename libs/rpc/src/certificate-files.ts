/**
 * The PEM files of a process's TLS (UNDERSTORY_TLS_CERT, _KEY, _CA). Renewed certificates come as new files under the
 * same names; they are looked at again and again, and new ones count for connections that are made from then on. Files
 * that cannot be used, because not all of them are replaced yet, are left for the next look: until then the files
 * before count.
 */
import { readFileSync } from 'node:fs'
import { X509Certificate } from 'node:crypto'
import { createSecureContext } from 'node:tls'
import { describeError, fail } from '@understory/base'
import type { experimental } from '@grpc/grpc-js'
import type { Clock, Log } from '@understory/env'

type CertificateProvider = experimental.CertificateProvider
type CaListener = experimental.CaCertificateUpdateListener
type IdentityListener = experimental.IdentityCertificateUpdateListener

export interface CertificatePaths {
  /** This process's own certificate and its key: both or neither. */
  readonly cert: string | undefined
  readonly key: string | undefined
  /** The authority of others' certificates. */
  readonly ca: string | undefined
}

type Contents = { readonly [F in keyof CertificatePaths]: Buffer | undefined }

const KINDS = ['cert', 'key', 'ca'] as const
const REFRESH_MS = 30_000
const EXPIRES_SOON_MS = 3 * 86_400_000

export class CertificateFiles implements CertificateProvider {
  readonly #paths: CertificatePaths
  readonly #caListeners = new Set<CaListener>()
  readonly #identityListeners = new Set<IdentityListener>()
  #contents: Contents
  /** The problem that the last look reported, so that it is reported once. */
  #reported: string | undefined

  /** Reads them. Errors: `bad_argument` that names the file. */
  constructor(paths: CertificatePaths) {
    this.#paths = paths
    this.#contents = read(paths)
  }

  get hasIdentity(): boolean {
    return this.#contents.cert !== undefined
  }
  get hasAuthority(): boolean {
    return this.#contents.ca !== undefined
  }

  /** Looks at the files from now on, as long as the process lives. */
  watch(clock: Clock, log: Log, refreshMs = REFRESH_MS): void {
    const look = (): void => {
      this.refresh(log, clock.wallMs())
      clock.setTimer(refreshMs, look)
    }
    look()
  }

  /** Takes over the new files. */
  refresh(log: Log, wallMs: number): void {
    let contents: Contents
    try {
      contents = read(this.#paths)
    } catch (error) {
      this.#reportOnce(describeError(error), (reason) => log.warn('certificate_not_read', { reason }))
      return
    }
    if (!KINDS.every((kind) => isSame(contents[kind], this.#contents[kind]))) this.#take(contents, log)
    const { cert } = this.#contents
    const validTo = cert === undefined ? undefined : new X509Certificate(cert).validTo
    if (validTo !== undefined && Date.parse(validTo) - wallMs < EXPIRES_SOON_MS)
      this.#reportOnce(validTo, () => log.warn('certificate_expires', { validTo }))
    else this.#reported = undefined
  }

  #take(contents: Contents, log: Log): void {
    this.#contents = contents
    for (const listener of this.#identityListeners) listener(this.#identity())
    for (const listener of this.#caListeners) listener(this.#authority())
    const { cert } = contents
    log.info('certificate_renewed', cert === undefined ? {} : { validTo: new X509Certificate(cert).validTo })
  }

  #reportOnce(problem: string, report: (problem: string) => void): void {
    if (this.#reported !== problem) report(problem)
    this.#reported = problem
  }

  #identity(): experimental.IdentityCertificateUpdate | null {
    const { cert, key } = this.#contents
    return cert === undefined || key === undefined ? null : { certificate: cert, privateKey: key }
  }
  #authority(): experimental.CaCertificateUpdate | null {
    const { ca } = this.#contents
    return ca === undefined ? null : { caCertificate: ca }
  }

  // A listener gets the present contents once its caller is ready for them.

  addCaCertificateListener(listener: CaListener): void {
    this.#caListeners.add(listener)
    process.nextTick(() => listener(this.#authority()))
  }
  removeCaCertificateListener(listener: CaListener): void {
    this.#caListeners.delete(listener)
  }
  addIdentityCertificateListener(listener: IdentityListener): void {
    this.#identityListeners.add(listener)
    process.nextTick(() => listener(this.#identity()))
  }
  removeIdentityCertificateListener(listener: IdentityListener): void {
    this.#identityListeners.delete(listener)
  }
}

const variableOf = (kind: keyof CertificatePaths): string => `UNDERSTORY_TLS_${kind.toUpperCase()}`

const isSame = (a: Buffer | undefined, b: Buffer | undefined): boolean =>
  a === b || (a !== undefined && b !== undefined && a.equals(b))

/** The contents of the files, of which TLS can be made. */
function read(paths: CertificatePaths): Contents {
  const [cert, key, ca] = KINDS.map((kind) => contentOf(kind, paths[kind]))
  try {
    createSecureContext({ cert, key, ca })
    if (cert !== undefined) new X509Certificate(cert)
    if (ca !== undefined) new X509Certificate(ca)
  } catch (cause) {
    const names = KINDS.filter((kind) => paths[kind] !== undefined)
      .map(variableOf)
      .join(', ')
    throw fail('bad_argument', `no TLS can be made of what ${names} name`, {
      detail: describeError(cause),
      hint: 'Name PEM files: a certificate, the key that belongs to it, and the authority of others.',
      cause,
    })
  }
  return { cert, key, ca }
}

function contentOf(kind: keyof CertificatePaths, path: string | undefined): Buffer | undefined {
  if (path === undefined) return undefined
  try {
    return readFileSync(path)
  } catch (cause) {
    throw fail('bad_argument', `${variableOf(kind)}: could not read "${path}"`, {
      detail: describeError(cause),
      hint: 'Name a file that this user may read.',
      cause,
    })
  }
}
