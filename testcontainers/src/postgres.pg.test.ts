// A server started here is real, starts as the user of the tests, survives kill and restart, and leaves nothing.
import { existsSync } from 'node:fs'
import { chmod, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { temporaryDirectory } from './directory.ts'
import { startPostgres } from './postgres.ts'

describe.each([16, 17, 18] as const)('PostgreSQL %i', (major) => {
  test('starts, answers, stops and starts again with its data', async () => {
    await using server = await startPostgres({ major, settings: { work_mem: '5MB' } })
    const client = await server.connect()
    const { rows } = await client.query(`select current_setting('server_version_num')::int / 10000 as major,
      current_setting('work_mem') as work_mem, current_setting('wal_level') as wal_level,
      current_setting('data_checksums') as data_checksums`)
    expect(rows).toEqual([
      { major, work_mem: '5MB', wal_level: 'replica', data_checksums: major >= 18 ? 'on' : 'off' },
    ])
    await client.query('create table t as select 1 as x')
    await client.end()
    await server.stop('fast')
    expect(server.pid).toBeUndefined()
    expect(server.log()).toContain('database system is shut down')
    await server.start({ work_mem: '6MB' })
    const again = await server.connect()
    expect(
      (await again.query('select x, current_setting($1) as work_mem from t', ['work_mem'])).rows,
    ).toEqual([{ x: 1, work_mem: '6MB' }])
  })

  test('a killed server recovers what it had committed', async () => {
    await using server = await startPostgres({ major })
    const client = await server.connect()
    await client.query('create table t(x int); insert into t values (7)')
    await server.kill()
    await server.start()
    expect(server.log()).toContain('was not properly shut down')
    const again = await server.connect()
    expect((await again.query('select x from t')).rows).toEqual([{ x: 7 }])
  })

  test('checksums are as asked for', async () => {
    for (const dataChecksums of [true, false]) {
      await using server = await startPostgres({ major, dataChecksums })
      const client = await server.connect()
      expect((await client.query('show data_checksums')).rows).toEqual([
        { data_checksums: dataChecksums ? 'on' : 'off' },
      ])
    }
  })
})

test('clusters share a system identifier unless initdb runs afresh', async () => {
  const identifiers: string[] = []
  for (const freshInitdb of [false, false, true]) {
    await using server = await startPostgres({ major: 18, freshInitdb })
    const client = await server.connect()
    const { rows } = await client.query('select system_identifier::text as id from pg_control_system()')
    identifiers.push(rows[0].id as string)
  }
  expect(identifiers[1]).toBe(identifiers[0])
  expect(identifiers[2]).not.toBe(identifiers[0])
})

test('disposal removes the server and its folders', async () => {
  const server = await startPostgres({ major: 17 })
  const { pid, dataDirectory } = server
  await server[Symbol.asyncDispose]()
  expect(existsSync(dataDirectory)).toBe(false)
  expect(existsSync(`/proc/${pid}`)).toBe(false)
})

test('a given data directory is kept, also one that this user made', async () => {
  await using folder = await temporaryDirectory()
  const dataDirectory = join(folder.path, 'given')
  await mkdir(dataDirectory)
  await chmod(dataDirectory, 0o777)
  for (const rows of [[], [{ x: 1 }]]) {
    await using server = await startPostgres({
      major: 16,
      dataDirectory,
      hba: ['host all postgres 127.0.0.1/32 trust'],
    })
    const client = await server.connect()
    await client.query('create table if not exists t(x int)')
    expect((await client.query('select x from t')).rows).toEqual(rows)
    await client.query('insert into t values (1)')
    await client.end()
    await server.stop()
  }
  expect(existsSync(join(dataDirectory, 'PG_VERSION'))).toBe(true)
})

test('a server that cannot start says why', async () => {
  const starting = startPostgres({ major: 18, settings: { no_such_setting: 1 } })
  onTestFinished(() =>
    starting.then(
      (server) => server[Symbol.asyncDispose](),
      () => undefined,
    ),
  )
  await expect(starting).rejects.toMatchObject({ detail: expect.stringContaining('no_such_setting') })
})
