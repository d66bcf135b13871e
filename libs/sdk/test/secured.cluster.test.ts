/**
 * Goal: a whole installation under TLS and with a token works as one without, and answers no client that lacks either.
 * Method: a real cluster whose processes have both from the environment.
 */
import { readFile } from 'node:fs/promises'
import {
  TENANT_PASSWORD,
  selfSignedCertificate,
  startCluster,
  temporaryDirectory,
  tenantLogin,
} from '@understory/testcontainers'
import pg from 'pg'
import { expect, test } from 'vitest'
import { createClient } from '../src/index.ts'
import type { ClientOptions, ErrorCode } from '../src/index.ts'

const TOKEN = 'a token of this installation'

test('an installation under TLS and with a token', { timeout: 240_000 }, async () => {
  await using stack = new AsyncDisposableStack()
  const folder = stack.use(await temporaryDirectory({ prefix: 'secured' }))
  const { cert, key } = await selfSignedCertificate('understory', folder.path)
  const environment = {
    UNDERSTORY_TLS_CERT: cert,
    UNDERSTORY_TLS_KEY: key,
    UNDERSTORY_TLS_CA: cert,
    UNDERSTORY_TLS_NAME: 'understory',
    UNDERSTORY_TOKEN: TOKEN,
  }
  const data = stack.use(await temporaryDirectory({ prefix: 'secured-cluster' }))
  const cluster = stack.use(await startCluster({ dataDirectory: data.path, environment }))
  const { endpoint } = cluster
  // As text or as bytes, as it comes.
  const tls = { ca: await readFile(cert, 'utf8'), serverName: 'understory' }

  using client = createClient({ endpoint, tls, token: TOKEN })
  await client.createTenant({ name: 'safe', password: TENANT_PASSWORD })
  const connectionString = tenantLogin(await client.waitForSql('safe'))
  const sql = new pg.Client({ connectionString })
  await sql.connect()
  stack.defer(() => sql.end())
  await sql.query('create table t as select generate_series(1, 1000) i')
  await client.switchFullPageWrites('safe', 'off')
  expect(await client.waitForFullPageWrites('safe')).toMatchObject({ phase: 'off' })
  const place = await sql.query(`select pg_relation_filenode('t') as relation,
    (select oid from pg_database where datname = current_database()) as database, pg_current_wal_flush_lsn()::text as lsn`)
  const { relation, database, lsn } = place.rows[0] as { relation: string; database: string; lsn: string }
  const page = { relation: Number(relation), database: Number(database), block: 0 }
  expect((await client.getPage('safe', page, { lsn }))?.length).toBe(8192)
  expect(await client.getPage('safe', { ...page, block: 9_999 }, { lsn })).toBeUndefined()
  await expect(client.getPage('safe', { ...page, block: -1 })).rejects.toMatchObject({ code: 'bad_argument' })
  // The environment that a superuser of that Postgres sees.
  await sql.query("create temp table environment (line text); copy environment from program 'env'")
  const lines = (await sql.query<{ line: string }>('select line from environment')).rows.map(
    ({ line }) => line,
  )
  expect(lines.some((line) => line.startsWith('PGDATA=') || line.startsWith('PATH='))).toBe(true)
  expect(lines.filter((line) => line.includes(TOKEN))).toEqual([])

  let walBytes = 0
  for await (const { bytes } of client.tailWal('safe', { fromLsn: '0/3000000', toLsn: lsn }))
    walBytes += bytes.length
  expect(walBytes).toBeGreaterThan(10_000)

  /** The client that is wrong, what its error is, and what it says to do. */
  const strangers: readonly (readonly [ClientOptions, ErrorCode, RegExp])[] = [
    [{ endpoint, tls }, 'unauthenticated', /UNDERSTORY_TOKEN/],
    [{ endpoint, tls, token: 'another' }, 'unauthenticated', /UNDERSTORY_TOKEN/],
    [{ endpoint, token: TOKEN }, 'unavailable', /`tls` if that speaks TLS/],
    [{ endpoint, token: TOKEN, tls: { serverName: 'understory' } }, 'unavailable', /`tls\.ca`/],
    [{ endpoint, token: TOKEN, tls: { ...tls, serverName: 'other' } }, 'unavailable', /`tls\.serverName`/],
  ]
  for (const [options, code, hint] of strangers) {
    using stranger = createClient({ ...options, retries: 0, deadlineMs: 3_000 })
    const error: unknown = await stranger.listNodes().catch((thrown: unknown) => thrown)
    expect({ options, error }).toMatchObject({ options, error: { code, hint: expect.stringMatching(hint) } })
  }
  for (const node of [...cluster.safekeepers, ...cluster.pageservers, cluster.computeHost]) {
    using other = createClient({ endpoint: node.address, tls, retries: 0 })
    // Known or not, the method is not answered without the token.
    await expect(other.listNodes()).rejects.toThrow()
  }
})
