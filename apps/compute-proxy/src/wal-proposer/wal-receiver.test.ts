// Goal: what the standby waits for can come. Method: made WAL by hand, a quorum that commits whole records alone.
import { lsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realClock } from '@understory/env'
import { RM_XLOG_ID, XLOG_NOOP, encodeRecord, placeRecord } from '@understory/postgres/wal'
import type { ReplicationStream } from '@understory/postgres/wire'
import { expect, test } from 'vitest'
import type { WalProposer } from './wal-proposer.ts'
import { WalReceiver } from './wal-receiver.ts'

const WAL = { major: 17, systemId: 1n, timelineId: 1, segmentBytes: 16 << 20 } as const
const START = lsn((16 << 20) + 40)

test('whole records are waited for, not the part of one that Postgres holds back', async () => {
  const waited: { lsn: Lsn; resolve: () => void }[] = []
  let committedLsn = START
  const proposer: Pick<WalProposer, 'push' | 'waitForCommit' | 'observer'> = {
    observer: undefined,
    push: async (_startLsn, _bytes, recordEndLsn) => {
      committedLsn = recordEndLsn
      for (const { lsn: at, resolve } of waited) if (at <= committedLsn) resolve()
    },
    waitForCommit: (at) =>
      at <= committedLsn ? Promise.resolve() : new Promise((resolve) => waited.push({ lsn: at, resolve })),
  }
  const receiver = new WalReceiver(
    {} as ReplicationStream,
    proposer as WalProposer,
    START,
    undefined,
    WAL.segmentBytes,
    realClock,
  )
  const record = (prevLsn: Lsn) =>
    encodeRecord({ rmid: RM_XLOG_ID, info: XLOG_NOOP, prevLsn, mainData: new Uint8Array(5_000) })
  const first = placeRecord(START, record(lsn(16)), WAL)
  const second = placeRecord(first.nextLsn, record(first.recordLsn), WAL)
  // As far as the end of a WAL page, within the second.
  const bytes = Buffer.concat([first.bytes, second.bytes]).subarray(0, 8192 - 40)
  await receiver.take(START, bytes)
  expect(receiver.receivedLsn).toBeGreaterThan(first.nextLsn)
  await receiver.committed()
  expect(committedLsn).toBe(first.nextLsn)
})
