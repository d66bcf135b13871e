/**
 * Goal: in a pod Postgres runs, stops and is rebuilt although the proxy has another user, and its superuser gets at
 * nothing of the proxy. Method: both users, the real runner and the script of the init container, on the folders of a
 * pod with its modes.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, chownSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { freePort, postgresBinaries, temporaryDirectory, unprivilegedUser } from '@understory/testcontainers'
import pg from 'pg'
import { describe, expect, onTestFinished, test } from 'vitest'

const PROXY = 10_001
const FIXTURE = resolve(import.meta.dirname, 'two-users-proxy.ts')

/** The attempts of a superuser against the proxy, a line for all that works. */
const attacks = (root: string, proxy: number): string => `
cat ${root}/own/* && echo "open own"
ls ${root}/own && echo "open own folder"
true >${root}/orders/x && echo "open orders"
rm -f ${root}/orders/pg_hba.managed.conf && echo "open rules"
echo 'local all all trust' >>${root}/orders/pg_hba.managed.conf && echo "open rules"
cat /proc/${proxy}/environ && echo "open environ"
cat /proc/${proxy}/maps && echo "open maps"
ls /proc/${proxy}/fd/ /proc/${proxy}/root/ /proc/${proxy}/cwd/ && echo "open links"
for signal in 0 USR1 STOP KILL; do kill -$signal ${proxy} && echo "open $signal"; done
echo tried`

describe.runIf(process.geteuid?.() === 0)('two users', () => {
  test.each([16, 17, 18] as const)('PostgreSQL %i', { timeout: 120_000 }, async (major) => {
    const user = unprivilegedUser()
    if (user === undefined) throw new Error('root has a user to run Postgres as')
    const { bin } = await postgresBinaries(major)
    const port = await freePort()
    const folder = await temporaryDirectory()
    onTestFinished(() => folder[Symbol.asyncDispose]())
    chmodSync(folder.path, 0o711)
    const at = (name: string): string => join(folder.path, name)
    // As the kubelet makes them; what a container does not mount, it cannot get into here.
    for (const [name, uid, gid, mode] of [
      ['shared', 0, PROXY, 0o2777],
      ['orders', PROXY, PROXY, 0o2750],
      ['own', PROXY, PROXY, 0o700],
    ] as const) {
      mkdirSync(at(name))
      chownSync(at(name), uid, gid)
      chmodSync(at(name), mode)
    }
    writeFileSync(at('own/spec'), 'the spec')
    chownSync(at('own/spec'), PROXY, PROXY)
    chmodSync(at('own/spec'), 0o600)
    const { HOME: _home, ...environment } = process.env
    const asPostgres = (...command: string[]) => {
      const ids = ['--reuid', `${user.uid}`, '--regid', `${user.gid}`, '--groups', `${PROXY}`]
      return spawn('setpriv', [...ids, '--inh-caps=-all', '--bounding-set=-all', '--', ...command], {
        cwd: '/',
        env: { ...environment, PATH: `${bin}:${process.env['PATH']}` },
        stdio: ['ignore', 'ignore', 'inherit'],
      })
    }
    const script = `umask 007
      initdb --allow-group-access -D ${at('shared/pgdata')} --username=postgres --auth=trust --no-sync --locale=C
      : >${at('shared/initdb-done')}`
    const [code] = (await once(asPostgres('sh', '-ec', script), 'exit')) as [number]
    expect(code).toBe(0)

    const proxy = spawn(process.execPath, [FIXTURE, folder.path, `${major}`, `${port}`], {
      uid: PROXY,
      gid: PROXY,
      env: { ...environment, UNDERSTORY_TOKEN: 'the token' },
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const proxyEnded = once(proxy, 'exit')
    const lines = createInterface({ input: proxy.stdout })[Symbol.asyncIterator]()
    const next = async () =>
      JSON.parse((await lines.next()).value as string) as {
        event: string
        databases?: string[]
        kept?: string[]
        how?: string
      }
    expect(await next()).toMatchObject({ event: 'open' })
    const container = asPostgres('sh', at('orders/run.sh'), at('shared'))
    const containerEnded = once(container, 'exit')
    onTestFinished(() => void container.kill('SIGKILL'))
    onTestFinished(() => void proxy.kill('SIGKILL'))
    expect((await next()).databases).toContain('template1')

    const superuser = async <T extends pg.QueryResultRow>(statement: string): Promise<T[]> => {
      const client = new pg.Client({
        host: at('shared/sockets'),
        port,
        user: 'postgres',
        database: 'postgres',
        // There is no standby here for commits to wait for.
        options: '-c synchronous_commit=local',
      })
      await client.connect()
      try {
        return (await client.query<T>(statement)).rows
      } finally {
        await client.end()
      }
    }
    await superuser('create table t as select generate_series(1, 1000) as i')
    await superuser('create database other')
    writeFileSync(at('attacks'), attacks(folder.path, proxy.pid ?? 0))
    await superuser(`copy (select) to program 'sh ${at('attacks')} >${at('shared/tried')} 2>&1'`)
    const tried = readFileSync(at('shared/tried'), 'utf8')
    expect(tried.split('\n').filter((line) => line.startsWith('open'))).toEqual([])
    expect(tried).toContain('tried')

    proxy.stdin.write('rebuild\n')
    expect(await next()).toMatchObject({ event: 'ended', how: { kind: 'clean' } })
    const rebuilt = await next()
    expect(rebuilt.event).toBe('rebuilt')
    expect(rebuilt.databases).toContain('other')
    expect(rebuilt.kept).toContain('server.key')
    expect(await superuser('show full_page_writes')).toEqual([{ full_page_writes: 'off' }])
    expect(await superuser('show ssl')).toEqual([{ ssl: 'on' }])
    expect(await superuser('select count(*)::int as n from t')).toEqual([{ n: 1000 }])
    await superuser('drop table t; checkpoint; create table u as select 1 as i')
    proxy.stdin.write('end\n')
    expect(await next()).toMatchObject({ event: 'ended' })
    expect((await proxyEnded)[0]).toBe(0)
    expect((await containerEnded)[0]).toBe(0)
  })
})
