/**
 * Goal: the password of a tenant opens that tenant alone, after any loss, and is kept nowhere. Method: one cluster with
 * two tenants; logins by SQL, a compute that is killed, new passwords under load; at the end every file of the cluster
 * is searched for every password that there was.
 */
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { PLAIN_CLIENT, ComputeServiceClient, callUnary, createClient } from '@understory/rpc'
import { tenantLogin } from '@understory/testcontainers'
import pg from 'pg'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { loseCompute, runCli, startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const OTHER = 'other'

let road: Road
/** Every one that was in force at some time. */
const passwords: string[] = []
let otherPassword: string

beforeAll(async () => {
  road = await startRoad({ safekeepers: 1 })
  await road.loadTpcb()
  const { code, stdout } = await runCli(road.cluster, '-f', 'json', 'tenant', 'create', OTHER)
  expect(code).toBe(0)
  const [made] = JSON.parse(stdout) as { password: string; connection: string }[]
  otherPassword = made?.password ?? ''
  expect(otherPassword).toMatch(/^[0-9a-f]{32}$/)
  expect(new URL(made?.connection ?? '').password).toBe(otherPassword)
  passwords.push(otherPassword)
})
afterAll(() => road?.[Symbol.asyncDispose]())

/** The answer of Postgres to a login: its user, or a code. */
async function login(tenant: string, password: string | undefined): Promise<unknown> {
  const connectionString = tenantLogin(await road.connectionString(tenant), password ?? '')
  const client = new pg.Client({ connectionString })
  client.on('error', () => undefined)
  try {
    await client.connect()
    return (await client.query<{ me: string }>('select current_user as me')).rows[0]?.me
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  } finally {
    await client.end()
  }
}

async function newPassword(tenant: string): Promise<string> {
  const { code, stdout, stderr } = await runCli(road.cluster, '-f', 'json', 'tenant', 'password', tenant)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const [{ password } = { password: '' }] = JSON.parse(stdout) as { password: string }[]
  passwords.push(password)
  return password
}

test('a password opens its own tenant alone', async () => {
  expect(await login(OTHER, otherPassword)).toBe('postgres')
  expect(await login(road.tenant, otherPassword)).toBe('28P01')
  expect(await login(OTHER, 'not-the-password')).toBe('28P01')
  expect(await login(OTHER, undefined)).toMatch(/SASL.*client password must be a string/)
})

test('it is the same after the loss of a compute, and a new one is set under load', async () => {
  let password = ''
  const { stats } = await road.underLoad(async (load) => {
    // Open connections stay, and so does the load of the old password until it has to log in again.
    password = await newPassword(road.tenant)
    await load.moreCommits(50)
    expect(await login(road.tenant, password)).toBe('postgres')
    expect(await login(road.tenant, 'known-to-every-test')).toBe('28P01')
    await road.client.setTenantPassword(road.tenant, { password: 'known-to-every-test' })
    await road.client.waitForPassword(road.tenant)
    await load.moreCommits(50)
    expect(await login(road.tenant, password)).toBe('28P01')
  })
  expect(stats.connectionsLost).toBe(0)
  await road.underLoad(async (load) => {
    await loseCompute(road, load)
    await load.moreCommits(50)
  })
  expect(await login(road.tenant, 'known-to-every-test')).toBe('postgres')
  expect(await login(road.tenant, password)).toBe('28P01')
})

test('one that is set while Postgres is away is its password when it is back', async () => {
  await road.cluster.computeHost.stop()
  const { code, stdout } = await runCli(road.cluster, '-f', 'json', 'tenant', 'password', OTHER, '--no-wait')
  expect(code).toBe(0)
  const [{ password } = { password: '' }] = JSON.parse(stdout) as { password: string }[]
  passwords.push(password)
  expect((await road.client.getTimeline(OTHER)).passwordPending).toBe(true)
  await road.cluster.computeHost.start()
  await road.client.waitForPassword(OTHER)
  expect(await login(OTHER, password)).toBe('postgres')
  expect(await login(OTHER, otherPassword)).toBe('28P01')
})

test('a user who renamed the superuser, and set a password by SQL, has both until the next is set', async () => {
  const password = await newPassword(OTHER)
  const asAdmin = async (statement: string): Promise<void> => {
    const url = new URL(await road.connectionString(OTHER))
    url.password = password
    const client = new pg.Client({ connectionString: url.href })
    await client.connect()
    await client.query(statement)
    await client.end()
  }
  await asAdmin("create role helper superuser login password 'helper-of-tests'")
  const url = new URL(await road.connectionString(OTHER))
  url.username = 'helper'
  url.password = 'helper-of-tests'
  const helper = new pg.Client({ connectionString: url.href })
  await helper.connect()
  await helper.query('alter role postgres rename to root')
  const next = await newPassword(OTHER)
  await helper.query('alter role root rename to postgres')
  await helper.end()
  expect(await login(OTHER, next)).toBe('postgres')
})

test('a creation that is repeated neither returns the password again nor takes another', async () => {
  const request = { name: 'repeated', requestId: 'request-1' }
  const first = await road.client.createTenant(request)
  passwords.push(first.password ?? '')
  expect(first.password).toMatch(/^[0-9a-f]{32}$/)
  expect(await road.client.createTenant(request)).toEqual({ ...first, password: undefined })
  await expect(road.client.createTenant({ ...request, password: 'another-password' })).rejects.toMatchObject({
    code: 'already_exists',
    hint: 'Set a new one with `understory tenant password`.',
  })
  expect(await road.client.createTenant({ ...request, password: first.password })).toMatchObject({
    tenant: first.tenant,
  })
  expect(await road.connectionString('repeated')).toContain('127.0.0.1')
  expect(await login('repeated', first.password)).toBe('postgres')
})

test('a malformed password changes nothing', async () => {
  await expect(road.client.setTenantPassword(OTHER, { password: 'short' })).rejects.toMatchObject({
    code: 'bad_argument',
  })
  await expect(road.client.setTenantPassword('absent')).rejects.toMatchObject({ code: 'unknown_tenant' })
  const bad = await runCli(road.cluster, 'tenant', 'password', OTHER, '--verifier', 'md5abc')
  expect(bad).toMatchObject({ code: 1, stdout: '' })
  expect(bad.stderr).toMatch(/^understory: the verifier is not a SCRAM-SHA-256 verifier/)
  expect((await road.client.getTimeline(OTHER)).passwordPending).toBe(false)
})

test('a compute takes no verifier that is none, and no password that is older', async () => {
  const { computeAddress } = await road.timeline(OTHER)
  const client = createClient(PLAIN_CLIENT, ComputeServiceClient, computeAddress)
  onTestFinished(() => client.close())
  const set = (verifier: string, generation: bigint) =>
    callUnary(client.setPassword.bind(client), { verifier, generation })
  const password = await newPassword(OTHER)
  for (const verifier of ['', 'a-password', 'md5abc', `SCRAM-SHA-256$1:x$y:z'; drop table t; --`])
    await expect(set(verifier, 2n ** 60n)).rejects.toMatchObject({ code: 'bad_argument' })
  const older =
    'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU='
  await expect(set(older, 1n)).rejects.toMatchObject({ code: 'stale' })
  expect(await login(OTHER, password)).toBe('postgres')
  expect(await login(OTHER, 'pencil')).toBe('28P01')
  // A refused request keeps no later one out.
  expect(await login(OTHER, await newPassword(OTHER))).toBe('postgres')
})

test('no file of the cluster, and no line of its logs, has a password', async () => {
  // Postgres logs statements that fail, and each one where it is configured so.
  await road.query("alter system set log_statement = 'all'", road.tenant)
  await road.query('select pg_reload_conf()')
  await until('the setting', async () =>
    (await road.query('show log_statement'))[0]?.['log_statement'] === 'all' ? true : undefined,
  )
  await newPassword(road.tenant)
  await road.client.setTenantPassword(road.tenant, { password: 'known-to-every-test' })
  await road.client.waitForPassword(road.tenant)
  await road.query('select 1 as seen_in_the_log')
  const { cluster } = road
  const texts = [
    ...cluster.safekeepers,
    ...cluster.pageservers,
    cluster.computeHost,
    cluster.controlPlane,
  ].map((node) => [node.nodeId, Buffer.from(node.log())] as const)
  const files = (await readdir(join(road.folder, 'data'), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
  const found: string[] = []
  let verifiers = 0
  const look = (name: string, bytes: Buffer): void => {
    for (const password of [...passwords, 'known-to-every-test']) {
      expect(password.length).toBeGreaterThan(8)
      if (bytes.includes(password)) found.push(`${password} in ${name}`)
    }
    if (bytes.includes('SCRAM-SHA-256$4096:')) verifiers++
    if (name.endsWith('postgres.log') && bytes.includes('SCRAM-SHA-256$')) found.push(`verifier in ${name}`)
  }
  for (const [name, bytes] of texts) look(name, bytes)
  for (const name of files) look(name, await readFile(name).catch(() => Buffer.alloc(0)))
  expect(found).toEqual([])
  // It looks where they would be: verifiers are in the control documents, in pg_authid and in WAL.
  expect(verifiers).toBeGreaterThan(3)
})
