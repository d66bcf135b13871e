// Goal: others understand the certificate, and it is of the names and the key that it was made for. Method: OpenSSL by
// way of Node, and a TLS handshake that verifies it against itself.
import { X509Certificate, createPrivateKey } from 'node:crypto'
import { connect, createServer } from 'node:tls'
import { expect, test } from 'vitest'
import { areAPair, selfSignedCertificate } from './certificate.ts'

const NAMES = ['understory-pg-shop', 'understory-pg-shop.default.svc', '10.1.2.255', '::1', 'fd00:12::7']
const make = (serial = Buffer.alloc(16, 0xff)) =>
  selfSignedCertificate({ subject: 'timeline 1', names: NAMES, notBeforeMs: Date.UTC(2026, 10, 29), serial })

test('it says what it was made with', () => {
  const x509 = new X509Certificate(make().certificate)
  expect(x509.subject).toBe('CN=timeline 1')
  expect(x509.verify(x509.publicKey)).toBe(true)
  expect(x509.checkIssued(x509)).toBe(true)
  expect(x509.serialNumber).toBe(`01${'FF'.repeat(16)}`)
  expect(x509.validFrom).toBe('Nov 29 00:00:00 2026 GMT')
  expect(x509.validTo).toBe('Dec 31 23:59:59 9999 GMT')
  expect(x509.keyUsage).toEqual(['1.3.6.1.5.5.7.3.1'])
  expect(x509.ca).toBe(false)
  for (const name of NAMES.slice(0, 2)) expect(x509.checkHost(name)).toBe(name)
  for (const address of NAMES.slice(2)) expect(x509.checkIP(address)).toBe(address)
  expect(x509.checkHost('understory-pg-other')).toBeUndefined()
  expect(x509.checkIP('10.1.2.254')).toBeUndefined()
})

test('names beyond a length of one byte, and a date beyond 2049', () => {
  const names = Array.from({ length: 40 }, (_, i) => `host-${i}.example.com`)
  const { certificate } = selfSignedCertificate({
    subject: 'x',
    names,
    notBeforeMs: Date.UTC(2051, 0, 2),
    serial: Buffer.of(1),
  })
  const x509 = new X509Certificate(certificate)
  expect(x509.validFrom).toBe('Jan  2 00:00:00 2051 GMT')
  for (const name of names) expect(x509.checkHost(name)).toBe(name)
})

test('a certificate and a key are a pair, or not', () => {
  const [a, b] = [make(), make()].map(
    ({ certificate, key }) => [Buffer.from(certificate), Buffer.from(key)] as const,
  )
  if (a === undefined || b === undefined) throw new Error('none')
  expect(areAPair(...a)).toBe(true)
  expect(areAPair(a[0], b[1])).toBe(false)
  expect(areAPair(a[1], a[0])).toBe(false)
  expect(areAPair(Buffer.from('nothing'), a[1])).toBe(false)
})

test('a client that trusts this certificate alone, and checks the name, is let in; another is not', async () => {
  const { certificate, key } = make()
  expect(createPrivateKey(key).asymmetricKeyDetails).toEqual({ namedCurve: 'prime256v1' })
  const server = createServer({ cert: certificate, key }, (socket) => socket.end('hello'))
  const port = await new Promise<number>((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port))
  })
  const answer = (ca: string, servername: string): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect({ host: '127.0.0.1', port, ca, servername }, () => socket.resume())
      socket.on('data', (data) => resolve(String(data)))
      socket.on('error', (error) => resolve((error as { code?: string }).code ?? error.message))
    })
  try {
    expect(await answer(certificate, 'understory-pg-shop')).toBe('hello')
    expect(await answer(certificate, 'understory-pg-other')).toBe('ERR_TLS_CERT_ALTNAME_INVALID')
    expect(await answer(make().certificate, 'understory-pg-shop')).toMatch(/SELF_SIGNED|SIGNATURE|VERIFY/)
  } finally {
    await new Promise((resolve) => server.close(resolve))
  }
})
