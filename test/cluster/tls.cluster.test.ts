/**
 * Goal: SQL by TCP is encrypted unless a tenant allows otherwise, and a client that knows the certificate finds the
 * same one over the loss of the compute and of its host's disk, also where it is the user's own. Method: one cluster;
 * connections with TLS and without, against certificates that the command line prints.
 */
import { randomUUID } from 'node:crypto'
import { readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TLSSocket } from 'node:tls'
import { TENANT_PASSWORD, selfSignedCertificate, temporaryDirectory } from '@understory/testcontainers'
import pg from 'pg'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { loseCompute, runCli, startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

let road: Road

beforeAll(async () => {
  road = await startRoad({ safekeepers: 1 })
  await road.loadTpcb()
})
afterAll(() => road?.[Symbol.asyncDispose]())

/** The outcome of a login: its encryption, or the error. */
async function login(
  ssl: pg.ClientConfig['ssl'] | undefined,
  tenant = road.tenant,
  password = TENANT_PASSWORD,
): Promise<string> {
  const { hostname, port } = new URL(await road.connectionString(tenant))
  const client = new pg.Client({
    host: hostname,
    port: Number(port),
    user: 'postgres',
    password,
    ...(ssl === undefined ? {} : { ssl }),
  })
  client.on('error', () => undefined)
  try {
    await client.connect()
    const { rows } = await client.query<{ version: string | null }>(
      'select version from pg_stat_ssl where pid = pg_backend_pid()',
    )
    return rows[0]?.version ?? 'plain'
  } catch (error) {
    return `${(error as { code?: string }).code}: ${(error as Error).message}`
  } finally {
    await client.end().catch(() => undefined)
  }
}

async function certificate(): Promise<string> {
  const { code, stdout } = await runCli(road.cluster, 'tenant', 'certificate', road.tenant)
  expect(code).toBe(0)
  expect(stdout).toMatch(/^-----BEGIN CERTIFICATE-----\n/)
  return stdout
}

/** The certificate that a client gets. */
async function shown(): Promise<string> {
  const { hostname, port } = new URL(await road.connectionString())
  const client = new pg.Client({
    host: hostname,
    port: Number(port),
    user: 'postgres',
    password: TENANT_PASSWORD,
    ssl: { rejectUnauthorized: false },
  })
  await client.connect()
  const { connection } = client as unknown as { connection: { stream: TLSSocket } }
  const { raw } = connection.stream.getPeerCertificate()
  await client.end()
  return raw.toString('base64')
}

async function loseHostWithItsDisk(): Promise<void> {
  const { pid, postmasterPid } = await road.runningCompute()
  await road.cluster.computeHost.kill()
  for (const orphan of [pid, postmasterPid]) {
    try {
      process.kill(orphan, 'SIGKILL')
    } catch {
      // The kernel was faster: it ends them when their parent is gone.
    }
  }
  await rm(road.cluster.computeHost.dataDirectory, { recursive: true })
  await road.cluster.computeHost.start()
  await until('another compute', async () => {
    const { compute } = await road.timeline()
    return compute?.state === 5 && compute.pid !== pid ? true : undefined
  })
}

/** Waits until the control plane has the configuration files as they are now. */
async function published(): Promise<void> {
  const [row] = await road.query(`select encode(pg_read_binary_file('server.crt'), 'base64') as crt`)
  const { timelineId } = (await road.timeline()).timeline?.timeline ?? { timelineId: '' }
  const path = `${road.cluster.objectStore}/control/configurations/${timelineId}.json`
  await until('the certificate to be published', async () => {
    const { soundFiles } = JSON.parse(await readFile(path, 'utf8')) as { soundFiles: Record<string, string> }
    return soundFiles['server.crt'] === String(row?.['crt']).replaceAll('\n', '') ? true : undefined
  })
}

test('a connection without TLS is refused, one with TLS is let in', async () => {
  expect(await login(undefined)).toMatch(/^28000: pg_hba.conf rejects connection .* no encryption$/)
  expect(await login({ rejectUnauthorized: false })).toMatch(/^TLSv1\.[23]$/)
  expect(new URL(await road.client.waitForSql(road.tenant)).searchParams.get('sslmode')).toBe('require')
  // Even if a user allows more.
  await road.query(`copy (values ('host all all all trust')) to '${await dataDirectory()}/pg_hba.conf'`)
  await road.query('select pg_reload_conf()')
  await until('the rule to be in force', async () =>
    (await login({ rejectUnauthorized: false }, road.tenant, 'any')).startsWith('TLS') ? true : undefined,
  )
  expect(await login(undefined)).toMatch(/^28000: /)
  await road.query(
    `copy (values ('local all all trust'), ('host all all all scram-sha-256')) to '${await dataDirectory()}/pg_hba.conf'`,
  )
  await road.query('select pg_reload_conf()')
})

const dataDirectory = async (): Promise<string> => (await road.runningCompute()).dataDirectory

test('the certificate is that of this server, by its address, and of no other', async () => {
  const ca = await certificate()
  expect(await login({ ca })).toMatch(/^TLSv1/)
  await using folder = await temporaryDirectory()
  const other = await readFile((await selfSignedCertificate('127.0.0.1', folder.path)).cert, 'utf8')
  expect(await login({ ca: other })).toMatch(/self-signed|self signed|DEPTH_ZERO/)
  const { port } = new URL(await road.connectionString())
  expect(Number(port)).toBeGreaterThan(0)
  // The key is Postgres's alone.
  const [mode] = await road.query(
    `select (pg_stat_file('server.key')).size > 100 as is_there, current_setting('ssl_key_file') as file`,
  )
  expect(mode).toEqual({ is_there: true, file: 'server.key' })
})

test('it is the same after the loss of the compute under load, and of the disk of its host', async () => {
  const [ca, before] = [await certificate(), await shown()]
  await published()
  await road.underLoad(async (load) => {
    await loseCompute(road, load)
    await load.moreCommits(20)
  })
  expect(await shown()).toBe(before)
  expect(await login({ ca })).toMatch(/^TLSv1/)
  await loseHostWithItsDisk()
  expect(await shown()).toBe(before)
  expect(await login({ ca })).toMatch(/^TLSv1/)
})

test("a user's own certificate outlives the loss of the disk, and one that is damaged keeps nothing from coming back", async () => {
  await using folder = await temporaryDirectory()
  const own = await selfSignedCertificate('127.0.0.1', folder.path)
  const [cert, key] = await Promise.all([own.cert, own.key].map((path) => readFile(path, 'utf8')))
  const write = async (name: string, content: string): Promise<void> => {
    const lines = content.trim().split('\n')
    await road.query(
      `copy (select unnest(string_to_array('${lines.join('\n')}', E'\\n'))) to '${await dataDirectory()}/${name}'`,
    )
  }
  const made = await shown()
  await write('server.crt', cert ?? '')
  await write('server.key', key ?? '')
  await road.query('select pg_reload_conf()')
  await until('the own certificate to be shown', async () => ((await shown()) === made ? undefined : true))
  const mine = await shown()
  expect(await login({ ca: cert ?? '' })).toMatch(/^TLSv1/)
  await published()
  await loseHostWithItsDisk()
  expect(await shown()).toBe(mine)
  expect(await login({ ca: await certificate() })).toMatch(/^TLSv1/)

  await write('server.key', 'damaged')
  await until('the damage to be kept', async () => {
    const text = await readFile(`${await dataDirectory()}/../own/configuration.json`, 'utf8')
    const { files } = JSON.parse(text) as { files: Record<string, string> }
    return Buffer.from(files['server.key'] ?? '', 'base64').toString() === 'damaged\n' ? true : undefined
  })
  await loseHostWithItsDisk()
  // The newest that fits together.
  expect(await shown()).toBe(mine)

  // A path that is not kept, and that a start does not survive.
  const lost = join(tmpdir(), `understory-lost-${randomUUID()}.crt`)
  onTestFinished(() => rm(lost, { force: true }))
  await road.query(`copy (select 1) to program 'cat >/dev/null; cp server.crt ${lost}'`)
  await road.query(`alter system set ssl_cert_file = '${lost}'`)
  await road.query('select pg_reload_conf()')
  await until('the path to be kept', async () => {
    const text = await readFile(`${await dataDirectory()}/../own/configuration.json`, 'utf8')
    return Buffer.from(
      (JSON.parse(text) as { soundFiles: Record<string, string> }).soundFiles['postgresql.auto.conf'] ?? '',
      'base64',
    )
      .toString()
      .includes('understory-lost')
      ? true
      : undefined
  })
  await rm(lost)
  await road.underLoad((load) => loseCompute(road, load))
  expect(await shown()).toBe(mine)
  await road.query('alter system reset ssl_cert_file')
  await road.query('select pg_reload_conf()')
})

test('a tenant that allows it is reached without TLS, and with it', async () => {
  const name = 'plain'
  await road.client.createTenant({ name, password: TENANT_PASSWORD, allowPlaintext: true })
  onTestFinished(() => road.client.deleteTenant(name, { stopCompute: true }))
  expect(await road.client.waitForSql(name)).not.toContain('sslmode')
  expect(await login(undefined, name)).toBe('plain')
  expect(await login({ rejectUnauthorized: false }, name)).toMatch(/^TLSv1/)
})
