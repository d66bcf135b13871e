/**
 * Goal: a superuser of a tenant reaches nothing of another tenant of the same compute host, nor of the host. Method:
 * two tenants on one host that is root; the one tries by COPY PROGRAM what it can against the other's files, sockets
 * and processes, and the host's.
 */
import { chmod, lstat, readFile, readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { TENANT_PASSWORD, tenantLogin } from '@understory/testcontainers'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startRoad } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

/** In the environment of every process, as a secret of the installation may be. */
const SECRET = 'the-secret-of-this-installation'
const VICTIM = 'victim'

/** A line `open …` for each thing that works. */
const attacks = ({ root, own, port, pids }: Target): string => `
for path in ${root}/pgdata ${root}/sockets ${root}/own ${root} ${own}/../own; do
  ls "$path" && echo "open $path"
done
for path in ${root}/pgdata/PG_VERSION ${root}/postgres.log ${root}/own/state.json ${root}/own/configuration.json ${root}/pg_hba.managed.conf \\
  ${own}/../own/state.json ${own}/../postgres.log; do
  cat "$path" && echo "open $path"
done
for path in ${root}/pgdata/x ${root}/sockets/x ${root}/x ${own}/../pg_hba.managed.conf ${own}/../x; do
  (echo x >>"$path") && echo "open $path"
done
for folder in ${root} ${own}/..; do
  mv "$folder/sockets" "$folder/taken" && echo "open mv $folder"
  rm -f "$folder/pg_hba.managed.conf" && [ ! -e "$folder/pg_hba.managed.conf" ] && echo "open rm $folder"
done
for pid in ${pids.join(' ')}; do
  cat /proc/$pid/environ && echo "open environ of $pid"
  cat /proc/$pid/maps && echo "open maps of $pid"
  ls /proc/$pid/fd/ && echo "open files of $pid"
  for signal in 0 INT KILL; do kill -$signal $pid && echo "open $signal to $pid"; done
done
PGPASSWORD= psql -h ${root}/sockets -p ${port} -U postgres -c 'select 1' && echo "open socket"
env
id -u
echo tried`

interface Target {
  readonly root: string
  readonly own: string
  readonly port: string
  readonly pids: readonly number[]
}

describe.runIf(process.geteuid?.() === 0)('a host that is root', () => {
  let road: Road
  beforeAll(async () => {
    road = await startRoad({ safekeepers: 1, pageservers: 1, environment: { AWS_SECRET_ACCESS_KEY: SECRET } })
    await road.createTenant(VICTIM, 17)
  })
  afterAll(() => road?.[Symbol.asyncDispose]())

  async function as<T extends pg.QueryResultRow>(tenant: string, statement: string): Promise<T[]> {
    const connectionString = tenantLogin(await road.connectionString(tenant), TENANT_PASSWORD)
    const client = new pg.Client({ connectionString })
    await client.connect()
    try {
      return (await client.query<T>(statement)).rows
    } finally {
      await client.end()
    }
  }

  test('one tenant has nothing of the other, and nothing of the host', async () => {
    const own = await road.runningCompute()
    const victim = await road.runningCompute(VICTIM)
    const root = join(victim.dataDirectory, '..')
    const { port } = new URL(await road.connectionString(VICTIM))
    const pids = [own.pid, victim.pid, victim.postmasterPid, road.cluster.computeHost.pid]
    const script = join(road.folder, 'attacks')
    await writeFile(script, attacks({ root, own: own.dataDirectory, port, pids }))
    await chmod(script, 0o755)
    await as(road.tenant, `copy (select) to program 'sh ${script} >${own.dataDirectory}/tried 2>&1'`)
    const tried = await readFile(join(own.dataDirectory, 'tried'), 'utf8')
    expect(tried.split('\n').filter((line) => line.startsWith('open'))).toEqual([])
    expect(tried.trim().endsWith('tried')).toBe(true)
    expect(tried).not.toContain(SECRET)

    // By TCP too: a password is asked for.
    const ssl = { rejectUnauthorized: false }
    const login = { host: '127.0.0.1', port: Number(port), user: 'postgres', database: 'postgres', ssl }
    await expect(new pg.Client(login).connect()).rejects.toThrow('password')
    // Each folder is its own user's alone.
    const uids = await Promise.all(
      [own, victim].map(async ({ dataDirectory }) => (await stat(dataDirectory)).uid),
    )
    expect(new Set(uids).size).toBe(2)
    expect(Math.min(...uids)).toBeGreaterThan(1_000)
    for (const [i, { dataDirectory }] of [own, victim].entries()) {
      for (const name of ['pgdata', 'sockets']) {
        const { uid, mode } = await lstat(join(dataDirectory, '..', name))
        expect([uid, mode & 0o777]).toEqual([uids[i], 0o700])
      }
    }
    await as(VICTIM, 'create table t as select 1 as i')
    expect(await as(VICTIM, 'select i from t')).toEqual([{ i: 1 }])
  })

  test('what a superuser leaves running ends with its compute', async () => {
    const { dataDirectory, postmasterPid } = await road.runningCompute()
    const { uid } = await stat(dataDirectory)
    const script = join(road.folder, 'stays')
    await writeFile(script, 'cd /; setsid sleep 600 >/dev/null 2>&1 & echo $!\n')
    await as(road.tenant, `copy (select) to program 'sh ${script} >${dataDirectory}/left'`)
    const left = Number(await readFile(join(dataDirectory, 'left'), 'utf8'))
    expect((await stat(`/proc/${left}`)).uid).toBe(uid)
    process.kill(postmasterPid, 'SIGKILL')
    await expect.poll(() => readdir(`/proc/${left}`).catch(() => 'gone'), { timeout: 20_000 }).toBe('gone')
    await road.client.waitForSql(road.tenant, { timeoutMs: 60_000 })
  })
})
