/**
 * Goal: a user's configuration outlives the disk of the compute's host, and a cluster with prepared transactions starts
 * against any setting of its files. Method: one cluster; settings and rules are changed by SQL, the host is killed and
 * its whole data directory removed.
 */
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const RULES = ['host all all 127.0.0.1/32 trust', 'host all other_user 0.0.0.0/0 scram-sha-256']

let road: Road

beforeAll(async () => {
  road = await startRoad({ settings: { max_prepared_transactions: '7' } })
})
afterAll(() => road?.[Symbol.asyncDispose]())

/** Waits until the object store has what the file says now. */
async function published(name: string, content: string): Promise<void> {
  const { timelineId } = (await road.timeline()).timeline?.timeline ?? { timelineId: '' }
  const path = join(road.cluster.objectStore, 'control', 'configurations', `${timelineId}.json`)
  await until(`${name} to be published`, async () => {
    const { files } = JSON.parse(await readFile(path, 'utf8')) as { files: Record<string, string> }
    return Buffer.from(files[name] ?? '', 'base64')
      .toString()
      .includes(content)
      ? true
      : undefined
  })
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
  await anotherCompute(pid)
}

async function anotherCompute(pid: number): Promise<void> {
  await until('another compute', async () => {
    const { compute } = await road.timeline()
    return compute?.state === 5 && compute.pid !== pid ? true : undefined
  })
}

test('settings, rules and prepared transactions outlive the disk of the compute host', async () => {
  const { dataDirectory } = await road.runningCompute()
  await road.query(`alter system set work_mem = '7MB'`)
  await road.query(`alter system set max_prepared_transactions = 0`)
  await road.query(
    `copy (values ${RULES.map((rule) => `('${rule}')`).join(', ')}) to '${dataDirectory}/pg_hba.conf'`,
  )
  await road.query('create table t (i int)')
  await road.withClient(async (client) => {
    await client.query('begin')
    await client.query('insert into t values (1)')
    await client.query(`prepare transaction 'kept'`)
  })
  await published('postgresql.auto.conf', "max_prepared_transactions = '0'")
  await published('pg_hba.conf', 'other_user')
  await loseHostWithItsDisk()

  expect(await road.query('show work_mem')).toEqual([{ work_mem: '7MB' }])
  // The value that the prepared transaction needs, against the files.
  expect(await road.query('show max_prepared_transactions')).toEqual([{ max_prepared_transactions: '7' }])
  await road.query(`commit prepared 'kept'`)
  expect(await road.query('select i from t')).toEqual([{ i: 1 }])
  const [hba] = await road.query(`select pg_read_file('pg_hba.conf') as text`)
  expect(hba).toEqual({ text: `${RULES.join('\n')}\n` })
  // initdb's own file, with what it found out about this machine.
  const [conf] = await road.query(`select pg_read_file('postgresql.conf') as text`)
  expect(conf?.['text']).toMatch(/^max_connections = /m)
  await road.expectVerified()
})

test.each(['lost', 'damaged'])(
  'a copy on the disk that is %s is replaced by what was published',
  async (what) => {
    const { timelineId } = (await road.timeline()).timeline?.timeline ?? { timelineId: '' }
    const path = join(
      road.cluster.computeHost.dataDirectory,
      'computes',
      timelineId,
      'own/configuration.json',
    )
    const { pid } = await road.runningCompute()
    await road.cluster.computeHost.stop()
    expect(await readFile(path, 'utf8')).toContain('"files"')
    await (what === 'lost' ? rm(path) : writeFile(path, '{'))
    await road.cluster.computeHost.start()
    await anotherCompute(pid)
    expect(await road.query('show work_mem')).toEqual([{ work_mem: '7MB' }])
  },
)
