/**
 * Goal: against all that a superuser does to databases, roles and settings, a lost compute comes back, its commits wait
 * for the quorum, and storage still has every page. Method: one cluster; each test does its harm by SQL, kills Postgres
 * and its proxy, and uses the database that was left.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

let road: Road

beforeAll(async () => {
  road = await startRoad()
  await road.query('create database kept')
  await inKept('create table t as select generate_series(1, 100) as i')
})
afterAll(() => road?.[Symbol.asyncDispose]())

/** As the user sees it: over TCP, with settings of its own where all sessions were given bad ones. */
async function inKept(...statements: string[]): Promise<Record<string, unknown>[]> {
  const url = new URL(await road.connectionString())
  url.pathname = '/kept'
  const options = '-c statement_timeout=0 -c default_transaction_read_only=off -c event_triggers=off'
  const client = new pg.Client({
    connectionString: url.href,
    options: `${options} -c session_preload_libraries= -c role=none`,
  })
  client.on('error', () => undefined)
  await client.connect()
  try {
    let rows: Record<string, unknown>[] = []
    for (const statement of statements) rows = (await client.query<Record<string, unknown>>(statement)).rows
    return rows
  } finally {
    await client.end()
  }
}

/** Waits until the proxy has looked at the configuration. */
async function kept(content: string): Promise<void> {
  const { dataDirectory } = await road.runningCompute()
  await until(`"${content}" to be kept`, async () => {
    const text = await readFile(join(dataDirectory, '..', 'own/configuration.json'), 'utf8')
    const { files } = JSON.parse(text) as { files: Record<string, string> }
    const all = Object.values(files).map((base64) => Buffer.from(base64, 'base64').toString())
    return all.some((file) => file.includes(content)) ? true : undefined
  })
}

async function loseCompute(): Promise<void> {
  const { pid, postmasterPid, term } = await road.runningCompute()
  process.kill(pid, 'SIGKILL')
  process.kill(postmasterPid, 'SIGKILL')
  await until('another compute', async () => {
    const { compute } = await road.timeline()
    return (compute?.term ?? 0n) > term && compute?.state === 5 ? true : undefined
  })
}

async function expectServed(): Promise<void> {
  expect(await inKept('select count(*)::int as n from t')).toEqual([{ n: 100 }])
  expect(
    await inKept(
      'create table again as select 1 as i',
      'drop table again',
      'select application_name as name, sync_state from pg_stat_replication',
    ),
  ).toEqual([{ name: 'understory', sync_state: 'sync' }])
  // The proxy's own statements: a switch there and back, and verify.
  await road.client.switchFullPageWrites(road.tenant, 'off')
  await road.client.waitForFullPageWrites(road.tenant)
  await road.client.switchFullPageWrites(road.tenant, 'on')
  await road.client.waitForFullPageWrites(road.tenant)
  await road.expectVerified()
}

test('settings of the server that would shut storage out do not last', async () => {
  await inKept(
    ...[
      'max_wal_senders = 0',
      'max_replication_slots = 0',
      'wal_level = minimal',
      "synchronous_standby_names = ''",
      "listen_addresses = ''",
      "unix_socket_directories = '/nowhere'",
      'unix_socket_permissions = 0',
      "hba_file = '/nowhere/pg_hba.conf'",
      "ident_file = '/nowhere/pg_ident.conf'",
      'port = 1',
      'fsync = on',
      'archive_mode = on',
      'restart_after_crash = on',
      'max_slot_wal_keep_size = 1',
      "wal_sender_timeout = '10ms'",
    ].map((setting) => `alter system set ${setting}`),
  )
  await loseCompute()
  await expectServed()
})

test('settings of all sessions that would shut the proxy out do not reach it', async () => {
  await inKept(
    'create role plain_user',
    ...[
      'statement_timeout = 1',
      'default_transaction_read_only = on',
      "session_preload_libraries = 'nothing_of_that_name'",
      "role = 'plain_user'",
    ].map((setting) => `alter role all set ${setting}`),
    `create function refuse_login() returns event_trigger language plpgsql as $$ begin raise 'no'; end $$`,
    'create event trigger refuse_login on login execute function refuse_login()',
    'alter event trigger refuse_login enable always',
  )
  await loseCompute()
  await expectServed()
})

test('settings that keep Postgres from starting are left out, the others stay', async () => {
  await inKept(`alter system set work_mem = '9MB'`, 'select pg_reload_conf()')
  await kept('9MB')
  // Of no use before a start, and then it is too late to know.
  await inKept(`alter system set shared_preload_libraries = 'nothing_of_that_name'`)
  await kept('nothing_of_that_name')
  await loseCompute()
  expect(await inKept('show work_mem')).toEqual([{ work_mem: '9MB' }])
  expect(await inKept('show shared_preload_libraries')).toEqual([{ shared_preload_libraries: '' }])
  await expectServed()
})

test('rules that cannot be read let in whom the last good ones let in', async () => {
  const { dataDirectory } = await road.runningCompute()
  await inKept(`copy (select 'host all all nonsense') to '${dataDirectory}/pg_hba.conf'`)
  await kept('host all all nonsense')
  await loseCompute()
  await expectServed()
})

test('no database and no role of the proxy has to be there', async () => {
  await inKept(
    'drop database postgres',
    'alter database template1 is_template false',
    'drop database template1',
    'create role boss superuser login',
    'drop role understory',
  )
  await loseCompute()
  await expectServed()
})

test('a role of the proxy that was cut down gets its rights again', async () => {
  await inKept('alter role understory nosuperuser noreplication')
  await loseCompute()
  await expectServed()
  await inKept('alter role understory nologin')
  await loseCompute()
  await expectServed()
})
