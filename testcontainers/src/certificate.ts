import { join } from 'node:path'
import { runCommand } from './process.ts'

export interface Certificate {
  /** Paths of PEM files. */
  readonly cert: string
  readonly key: string
}

/**
 * A self-signed certificate for a host name or an IPv4 address, its own authority: made by openssl, within `folder`.
 */
export async function selfSignedCertificate(name: string, folder: string): Promise<Certificate> {
  const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
  const kind = /^[\d.]+$/.test(name) ? 'IP' : 'DNS'
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256']
  const subject = ['-subj', `/CN=${name}`, '-addext', `subjectAltName=${kind}:${name}`]
  const args = ['req', '-x509', ...curve, '-nodes', '-days', '2', '-keyout', key, '-out', cert, ...subject]
  await runCommand({ name: 'openssl', command: 'openssl', args })
  return { cert, key }
}
