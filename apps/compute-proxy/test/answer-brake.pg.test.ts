// Goal: a stock Postgres whose commits are slowed stays connected, far beyond its wal_sender_timeout, and shows the wait
// where its users look. Method: a real Postgres of each version and the receiver, with a quorum that has WAL at once.
import { createConnection } from 'node:net'
import { LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realClock } from '@understory/env'
import { ReplicationConnection } from '@understory/postgres/wire'
import { startPostgres } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import type { WalProposer } from '../src/wal-proposer/wal-proposer.ts'
import { WAL_RATE_FLOOR } from '../src/wal-proposer/wal-rate.ts'
import { WalReceiver } from '../src/wal-proposer/wal-receiver.ts'

const SEGMENT_BYTES = 16 * 1024 * 1024
/** Twice the time between two answers of the receiver, so that a busy machine is in time. */
const SENDER_TIMEOUT_MS = 2_000
const ROWS_COUNT = 8
/** Of WAL in one commit: several times that time at the floor. */
const COMMIT_BYTES = ROWS_COUNT * WAL_RATE_FLOOR

function quorum(): WalProposer {
  const listeners = new Set<(lsn: Lsn) => void>()
  let commitLsn = LSN_ZERO
  const proposer: Pick<WalProposer, 'push' | 'waitForCommit' | 'onCommit' | 'observer'> = {
    observer: undefined,
    push: async (_startLsn, _bytes, recordEndLsn) => {
      if (recordEndLsn > commitLsn) for (const listener of listeners) listener(recordEndLsn)
      commitLsn = recordEndLsn
    },
    waitForCommit: () => Promise.resolve(),
    onCommit: (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
  }
  return proposer as WalProposer
}

test.each([16, 17, 18] as const)(
  'PostgreSQL %d, slowed to the floor',
  async (major) => {
    const settings = { wal_sender_timeout: `${SENDER_TIMEOUT_MS}ms` }
    await using server = await startPostgres({ major, settings })
    const socket = createConnection(`${server.socketDirectory}/.s.PGSQL.${server.port}`)
    const options = { user: 'postgres', applicationName: 'understory' }
    const replication = await ReplicationConnection.open(socket, options, () => realClock.wallMs())
    const { timelineId, flushLsn } = await replication.identifySystem()
    const startLsn = (flushLsn - (flushLsn % SEGMENT_BYTES)) as Lsn
    const stream = await replication.startReplication({ startLsn, timelineId })
    const receiver = new WalReceiver(stream, quorum(), startLsn, undefined, SEGMENT_BYTES, realClock)
    const streaming = receiver.run()
    const client = await server.connect()
    const observer = await server.connect()
    await client.query('create table t (b bytea)')
    await client.query('alter table t alter b set storage external')
    await client.query(`alter system set synchronous_standby_names = 'understory'`)
    await client.query('select pg_reload_conf()')
    const standby = async (): Promise<{ pid: number; sync_state: string; lag: string; bytes: string }> =>
      (
        await observer.query(
          `select pid, sync_state, extract(epoch from flush_lag) * 1000 as lag, sent_lsn - flush_lsn as bytes
         from pg_stat_replication`,
        )
      ).rows[0]
    await expect.poll(async () => (await standby()).sync_state, { timeout: 10_000 }).toBe('sync')
    await client.query('checkpoint')
    await client.query('insert into t values (null)')
    const { pid } = await standby()

    receiver.brake.limit(WAL_RATE_FLOOR)
    const fromMs = realClock.nowMs()
    let isCommitted = false
    const commit = client
      .query(
        `insert into t select decode(repeat('00', ${COMMIT_BYTES / ROWS_COUNT}), 'hex') from generate_series(1, ${ROWS_COUNT})`,
      )
      .then(() => (isCommitted = true))
    // Longer than it would stay connected without a word.
    await expect.poll(() => receiver.brake.heldMs, { timeout: 15_000 }).toBeGreaterThan(3 * SENDER_TIMEOUT_MS)
    expect(isCommitted).toBe(false)
    const waiting = await standby()
    expect(waiting).toMatchObject({ pid, sync_state: 'sync' })
    expect(Number(waiting.bytes)).toBeGreaterThan(WAL_RATE_FLOOR)
    await commit
    const tookMs = realClock.nowMs() - fromMs
    expect(tookMs).toBeGreaterThan((1_000 * COMMIT_BYTES) / WAL_RATE_FLOOR - 1_000)
    const after = await standby()
    expect(after).toMatchObject({ pid, sync_state: 'sync' })
    expect(Number(after.lag)).toBeGreaterThan(SENDER_TIMEOUT_MS)

    // A stop that releases what is held loses no time by it.
    const last = client.query(`insert into t values (decode(repeat('00', ${COMMIT_BYTES}), 'hex'))`)
    await expect.poll(() => receiver.brake.heldBytes).toBeGreaterThan(COMMIT_BYTES / 2)
    receiver.brake.limit(Infinity)
    await last
    await server.stop('fast')
    await streaming
    expect(receiver.brake.heldBytes).toBe(0)
  },
  60_000,
)
