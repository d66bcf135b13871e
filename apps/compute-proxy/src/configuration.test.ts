// Goal: no configuration of a user keeps Postgres from being started, or from being served by storage. Method: tables.
import { expect, test } from 'vitest'
import { parseSettings, postgresArguments, setSetting } from './configuration.ts'
import { computeFiles } from './layout.ts'

const FLOORS = {
  max_connections: 100,
  max_worker_processes: 8,
  max_wal_senders: 10,
  max_prepared_transactions: 20,
  max_locks_per_transaction: 64,
}

function settingsFor(user: Readonly<Record<string, string>>, major = 17): Map<string, string> {
  const args = postgresArguments(
    computeFiles('/data/c'),
    { port: 5432, listenAddresses: '127.0.0.1' },
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
