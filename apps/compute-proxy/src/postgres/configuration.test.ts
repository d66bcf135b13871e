// Goal: no configuration of a user keeps Postgres from being started, or from being served by storage. Method: tables.
import { X509Certificate } from 'node:crypto'
import { mkdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { realClock, silentLog } from '@understory/env'
import { checkSpec } from '@understory/protocol'
import { ComputeSpec } from '@understory/rpc'
import { temporaryDirectory } from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import { childLauncher } from './child-launcher.ts'
import { areAPair, selfSignedCertificate } from './certificate.ts'
import {
  parseSettings,
  postgresArguments,
  restoredConfiguration,
  setSetting,
  writeGate,
} from './configuration.ts'
import { hostFiles } from './layout.ts'

const SPEC = checkSpec({
  ...ComputeSpec.fromPartial({ postgresMajor: 17 }),
  timeline: { tenantId: '1'.repeat(32), timelineId: '2'.repeat(32) },
  safekeepers: ['127.0.0.1:1'],
  pageservers: ['127.0.0.1:2'],
})

const FLOORS = {
  max_connections: 100,
  max_worker_processes: 8,
  max_wal_senders: 10,
  max_prepared_transactions: 20,
  max_locks_per_transaction: 64,
}

function settingsFor(
  user: Readonly<Record<string, string>>,
  major = 17,
  isSuspect = false,
): Map<string, string> {
  const args = postgresArguments(
    hostFiles('/data/c'),
    { port: 5432, listenAddresses: '127.0.0.1', isSuspect },
    major,
    (name) => user[name],
    FLOORS,
  )
  return new Map(
    args.flatMap((arg, i) => {
      const [name, value] = (args[i + 1] ?? '').split(/=(.*)/s) as [string, string]
      return arg === '-c' ? [[name, value] as const] : []
    }),
  )
}

test('what storage rests on is on the command line, which no file overrides', () => {
  const settings = settingsFor({ fsync: 'on', synchronous_standby_names: '', listen_addresses: '*' })
  expect(Object.fromEntries(settings)).toMatchObject({
    fsync: 'off',
    restart_after_crash: 'off',
    synchronous_standby_names: 'understory',
    archive_mode: 'off',
    wal_level: 'replica',
    max_slot_wal_keep_size: '-1',
    listen_addresses: '127.0.0.1',
    hba_file: '/data/c/pg_hba.managed.conf',
  })
})

test.each([
  ['wal_level', 'minimal', 'replica'],
  ['wal_level', 'logical', 'logical'],
  ['max_wal_senders', '0', '10'],
  ['max_wal_senders', '11', undefined],
  ['max_replication_slots', '0', '4'],
  ['max_replication_slots', '5', undefined],
  ['max_prepared_transactions', '5', '20'],
  ['max_prepared_transactions', '25', undefined],
  ['max_connections', '20', '100'],
  ['max_connections', 'many', '100'],
])('%s = %s is started with %s', (name, asked, given) => {
  expect(settingsFor({ [name]: asked }).get(name)).toBe(given)
})

test('what the files do not say counts as the default', () => {
  const settings = settingsFor({})
  expect(settings.get('max_prepared_transactions')).toBe('20')
  expect(settings.has('max_connections')).toBe(false)
  expect(settings.has('max_replication_slots')).toBe(false)
  expect(settingsFor({}, 16).has('allow_alter_system')).toBe(false)
})

test('logical slots with failover wait for the slot of the proxy, against any setting in the files', () => {
  const name = 'synchronized_standby_slots'
  for (const major of [17, 18] as const)
    expect(settingsFor({ [name]: '' }, major).get(name)).toBe('understory')
  expect(settingsFor({}, 16).has(name)).toBe(false)
})

test('settings are read as Postgres reads them', () => {
  const text = [
    "# a = 'comment'",
    'max_connections = 100\t\t\t# (change requires restart)',
    "Wal_Level='logical'",
    'search_path = \'"$user", public\'',
    "archive_command = 'echo it''s; # no comment'",
    'port 5433',
    'max_connections = 7',
    'nonsense',
  ].join('\n')
  expect(Object.fromEntries(parseSettings(text))).toEqual({
    max_connections: '7',
    wal_level: 'logical',
    search_path: '"$user", public',
    archive_command: "echo it's; # no comment",
    port: '5433',
  })
})

test('a setting stands once and last', () => {
  expect(setSetting("a = '1'\n FULL_PAGE_WRITES = 'on'\nb = '2'\n", 'full_page_writes', 'off')).toBe(
    "a = '1'\nb = '2'\nfull_page_writes = 'off'\n",
  )
})

test('a start after one that failed looks for no certificate that may be lost', () => {
  const own = { ssl: 'on', ssl_cert_file: '/mnt/lost.crt', ssl_key_file: '/mnt/lost.key' }
  expect(settingsFor(own).has('ssl_cert_file')).toBe(false)
  const suspect = settingsFor(own, 17, true)
  expect(suspect.get('ssl_cert_file')).toBe('server.crt')
  expect(suspect.get('ssl_key_file')).toBe('server.key')
  // Whether there is TLS stays the user's.
  expect(suspect.has('ssl')).toBe(false)
})

describe('certificate and key', () => {
  const pair = (subject: string): ReadonlyMap<string, Buffer> => {
    const made = selfSignedCertificate({
      subject,
      names: ['localhost'],
      notBeforeMs: 0,
      serial: Buffer.of(1),
    })
    return new Map([
      ['server.crt', Buffer.from(made.certificate)],
      ['server.key', Buffer.from(made.key)],
    ])
  }
  const [older, newer] = [pair('older'), pair('newer')]
  const mixed = new Map([...newer, ['server.key', older.get('server.key') ?? Buffer.alloc(0)]])
  const fresh = selfSignedCertificate({
    subject: 'fresh',
    names: ['a'],
    notBeforeMs: 0,
    serial: Buffer.of(1),
  })

  test.each([
    ['the kept ones', newer, older, 'newer'],
    ['half of a replacement', mixed, older, 'older'],
    ['half of one from the beginning', mixed, mixed, 'fresh'],
    ['none, as of a timeline from before', new Map<string, Buffer>(), new Map<string, Buffer>(), 'fresh'],
  ])('%s', async (_, files, soundFiles, subject) => {
    await using folder = await temporaryDirectory()
    const at = hostFiles(folder.path)
    await mkdir(at.pgdata)
    const kept = { term: 1, number: 1, files, soundFiles }
    const how = { settings: {}, certificate: fresh, fullPageWrites: 'on' } as const
    const launcher = childLauncher({
      bin: '',
      owner: undefined,
      environment: {},
      adoptionGraceMs: 0,
      clock: realClock,
      log: silentLog,
    })
    await launcher.install(at, restoredConfiguration(kept, how))
    const crt = await readFile(join(at.pgdata, 'server.crt'))
    expect(new X509Certificate(crt).subject).toBe(`CN=${subject}`)
    expect(areAPair(crt, await readFile(join(at.pgdata, 'server.key')))).toBe(true)
    expect((await stat(join(at.pgdata, 'server.key'))).mode & 0o777).toBe(0o600)
  })
})

test('an open gate refuses who comes without TLS before any rule of the user, where that is wanted', async () => {
  await using folder = await temporaryDirectory()
  const at = hostFiles(folder.path)
  const lines = async (requireTls: boolean): Promise<string[]> => {
    writeGate(at, 'open', {
      launcher: { access: { owner: undefined, groupMayWrite: false } },
      spec: { ...SPEC, requireTls },
    })
    return (await readFile(at.hba, 'utf8')).trim().split('\n')
  }
  expect((await lines(true)).slice(-2)).toEqual([
    'hostnossl all all all reject',
    `include "${join(at.pgdata, 'pg_hba.conf')}"`,
  ])
  expect((await lines(false)).join()).not.toContain('hostnossl')
})

test('a line that is made to take long takes no longer than others', () => {
  const startMs = performance.now()
  expect(parseSettings(`work_mem${' '.repeat(100_000)}'`).size).toBe(0)
  expect(performance.now() - startMs).toBeLessThan(1_000)
  for (const line of ["a = 'b'", 'a=b', 'a b', "a\t'b' # c", '  a   =   b  '])
    expect(parseSettings(line).get('a')).toBe('b')
})
