// Goal: a stock Postgres's transaction commits wait for a majority of safekeepers, and only for a majority (I1); a
// newer candidate fences the older (I2). Method: real safekeeper processes, a real Postgres, SIGKILL.
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createConnection } from 'node:net'
import { offsetInSegment, present } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realClock, silentLog } from '@understory/env'
import { initialMembership } from '@understory/protocol'
import { ReplicationConnection } from '@understory/postgres/wire'
import { PLAIN_CLIENT, SafekeeperServiceClient, callUnary, createClient } from '@understory/rpc'
import { freePort, startPostgres, startProcess, temporaryDirectory } from '@understory/testcontainers'
import type { RunningProcess } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { WalProposer } from '../src/wal-proposer/wal-proposer.ts'
import { WalReceiver } from '../src/wal-proposer/wal-receiver.ts'

const SEGMENT_BYTES = 16 * 1024 * 1024
const TIMELINE = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }
const SAFEKEEPER = fileURLToPath(new URL('../../safekeeper/src/main.ts', import.meta.url))

async function startSafekeeper(directory: string, number: number, port: number): Promise<RunningProcess> {
  return startProcess({
    name: `safekeeper-${number}`,
    command: process.execPath,
    args: [
      SAFEKEEPER,
      '--node-id',
      `safekeeper-${number}`,
      '--data-dir',
      join(directory, String(number)),
      '--listen',
      `127.0.0.1:${port}`,
    ],
    ready: /"event":"started"/,
  })
}

/** Whether it is settled by now. */
async function settled<T>(promise: Promise<T>): Promise<boolean> {
  return Promise.race([promise.then(() => true), Promise.resolve(false)])
}

test('commits wait for a majority of safekeepers, and a newer candidate fences the older', async () => {
  await using directory = await temporaryDirectory()
  const ports = [await freePort(), await freePort(), await freePort()]
  await using first = await startSafekeeper(directory.path, 0, present(ports[0], 'port'))
  await using second = await startSafekeeper(directory.path, 1, present(ports[1], 'port'))
  await using third = await startSafekeeper(directory.path, 2, present(ports[2], 'port'))
  const members = ports.map((port) => `127.0.0.1:${port}`)

  await using server = await startPostgres({ major: 17 })
  const socket = createConnection(`${server.socketDirectory}/.s.PGSQL.${server.port}`)
  const replication = await ReplicationConnection.open(
    socket,
    { user: 'postgres', applicationName: 'understory' },
    () => realClock.wallMs(),
  )
  const { systemId, timelineId } = await replication.identifySystem()
  await replication.createPhysicalSlot('understory')
  const { restartLsn } = present(await replication.readSlot('understory'), 'slot')
  const startLsn = (restartLsn - offsetInSegment(restartLsn, SEGMENT_BYTES)) as Lsn
  const postgres = { major: 17, systemId, pgTimelineId: timelineId, walSegmentBytes: SEGMENT_BYTES } as const
  for (const address of members) {
    const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, address)
    await callUnary(client.createTimeline.bind(client), {
      timeline: TIMELINE,
      postgres,
      startLsn: BigInt(startLsn),
    })
    client.close()
  }

  const remembered: number[] = []
  const candidate = (ownTerm?: number) =>
    new WalProposer({
      rpc: PLAIN_CLIENT,
      timeline: TIMELINE,
      postgres,
      membership: initialMembership(members),
      nodeId: 'test',
      timelineStartLsn: startLsn,
      livingTerm: undefined,
      ownTerm,
      rememberTerm: (term) => void remembered.push(term),
      contactTimeoutMs: 20_000,
      clock: realClock,
      log: silentLog,
    })
  const proposer = candidate()
  expect(await proposer.elected).toMatchObject({ term: 1, startLsn })
  const stream = await replication.startReplication({ slot: 'understory', startLsn, timelineId })
  const standby = new WalReceiver(stream, proposer, startLsn, undefined, SEGMENT_BYTES, realClock)
  const streaming = standby.run()
  streaming.catch(() => undefined)

  const client = await server.connect()
  await client.query(`alter system set synchronous_standby_names = 'understory'`)
  await client.query('select pg_reload_conf()')
  await client.query('create table t (i int primary key)')
  for (let i = 0; i < 50; i++) await client.query('insert into t values ($1)', [i])

  first.kill('SIGKILL')
  await first.exited
  for (let i = 50; i < 100; i++) await client.query('insert into t values ($1)', [i])

  second.kill('SIGKILL')
  await second.exited
  const observer = await server.connect()
  const waits = async (): Promise<unknown[]> =>
    (
      await observer.query(
        `select query from pg_stat_activity where wait_event = 'SyncRep' and state_change < clock_timestamp()`,
      )
    ).rows.map(({ query }: { query: string }) => query)
  const waiting = client.query('insert into t values (100)')
  await expect.poll(waits).toEqual(['insert into t values (100)'])
  expect(await settled(waiting)).toBe(false)
  await using _again = await startSafekeeper(directory.path, 1, present(ports[1], 'port'))
  await waiting

  const newer = candidate()
  const { term, startLsn: takenOverAt } = await newer.elected
  expect(term).toBeGreaterThan(1)
  expect(takenOverAt).toBeGreaterThanOrEqual(proposer.commitLsn)
  // The older one learns of it at its next append.
  const fencedCommit = client.query('insert into t values (101)')
  fencedCommit.catch(() => undefined)
  expect(await proposer.lost).toMatchObject({ kind: 'fenced' })
  await expect.poll(waits).toEqual(['insert into t values (101)'])
  expect(await settled(fencedCommit)).toBe(false)
  await newer.waitForCommit(takenOverAt)
  newer.close()

  // A candidate that knows of no higher term than its first has a successor, and takes nothing from it.
  const resumed = candidate(1)
  await expect(resumed.elected).rejects.toMatchObject({ code: 'stale', loss: { kind: 'superseded', term } })
  // A candidate that asked for that term itself continues.
  const again = candidate(term)
  expect((await again.elected).term).toBe(term + 1)
  again.close()
  expect(remembered).toEqual([1, term, term + 1])
  await server.kill()
  third.kill('SIGKILL')
})
