/**
 * Goal: a safekeeper whose log is damaged takes no part until it is repaired from its peers. Method: safekeepers in
 * this process, bits flipped in their files while they are stopped or under them while they run.
 */
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { advance, isErrorCode, offsetInSegment, segmentOf } from '@understory/base'
import type { Lsn } from '@understory/base'
import { jsonLog, realClock } from '@understory/env'
import { walFileName } from '@understory/postgres/wal'
import { openBidi } from '@understory/rpc'
import type { SubscribeWalRequest, SubscribeWalResponse } from '@understory/rpc'
import { expect, onTestFinished, test } from 'vitest'
import {
  REF,
  committedWal,
  configure,
  create,
  folder,
  membership,
  pulled,
  start,
  status,
  write,
} from './peers.ts'
import type { Safekeeper } from './peers.ts'
import { isDamage } from '../src/timeline/wal-check.ts'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, START } from './wal-maker.ts'

const RECORDS_COUNT = 700

interface Pair {
  readonly at: string
  readonly donor: Safekeeper
  readonly copy: Safekeeper
  readonly committed: Buffer
  readonly endLsn: Lsn
}

/** Two that have the same 5 MB in segments of 1 MiB, and know each other. */
async function pair(): Promise<Pair> {
  const at = await folder()
  const [donor, copy] = [await start('donor', at), await start('copy', at)]
  await create(donor)
  const { maker } = await write(donor, 1, RECORDS_COUNT)
  await pulled(copy, [donor])
  for (const each of [donor, copy]) await configure(each, membership(1, [donor, copy]))
  return { at, donor, copy, committed: await committedWal(donor), endLsn: maker.endLsn }
}

const portOf = ({ address }: Safekeeper): number => Number(address.split(':')[1])

function segmentPath(at: string, nodeId: string, lsn: Lsn): string {
  const { pgTimelineId, walSegmentBytes: segmentBytes } = IDENTITY
  const name = walFileName(pgTimelineId, segmentOf(lsn, segmentBytes), segmentBytes)
  return join(at, nodeId, 'timelines', REF.tenantId, REF.timelineId, name)
}

async function flipBit(at: string, nodeId: string, lsn: Lsn): Promise<void> {
  await using file = await open(segmentPath(at, nodeId, lsn), 'r+')
  const offset = offsetInSegment(lsn, IDENTITY.walSegmentBytes)
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, offset)
  byte[0] = (byte[0] as number) ^ 0x10
  await file.write(byte, 0, 1, offset)
}

async function whole({ client }: { client: Safekeeper['client'] }, expected: Buffer): Promise<void> {
  for (;;) {
    const found = await committedWal({ client } as Safekeeper).catch((error: unknown) => {
      if (!isDamage(error) && !isErrorCode(error, 'unavailable')) throw error
      return undefined
    })
    if (found !== undefined && Buffer.compare(found, expected) === 0) return
    await realClock.sleep(10)
  }
}

async function voteRefusal(safekeeper: Safekeeper, term: number): Promise<unknown> {
  const proposer = new SingleProposer(safekeeper.client)
  onTestFinished(() => proposer.close())
  proposer.membershipGeneration = 1n
  return proposer.lead(REF, IDENTITY, term).then(
    () => undefined,
    (error: unknown) => error,
  )
}

test('damage in the last segment is found at a start: no vote until it is repaired from a peer', async () => {
  const { at, donor, copy, committed, endLsn } = await pair()
  await copy.stop()
  await donor.stop()
  await flipBit(at, 'copy', advance(endLsn, -20_000))
  const again = await start('copy', at)
  await expect(status(again)).rejects.toMatchObject({ code: 'bad_file' })
  expect(isErrorCode(await voteRefusal(again, 2), 'bad_file')).toBe(true)
  await start('donor', at, { port: portOf(donor) })
  await whole(again, committed)
  expect(await voteRefusal(again, 2)).toBeUndefined()
})

test('damage in an older segment is found soon after a start, and repaired', async () => {
  const { at, copy, committed } = await pair()
  await copy.stop()
  // In three segments, one of them at its first byte, which is a page header.
  for (const distance of [500_000, 1_048_576, 3_300_000]) await flipBit(at, 'copy', advance(START, distance))
  const again = await start('copy', at)
  await whole(again, committed)
})

test('an older segment that is gone comes back; without the last one the safekeeper is left to be replaced', async () => {
  const { at, copy, committed, endLsn } = await pair()
  await copy.stop()
  await rm(segmentPath(at, 'copy', advance(START, 2_500_000)))
  const again = await start('copy', at)
  await whole(again, committed)
  await again.stop()
  await rm(segmentPath(at, 'copy', advance(endLsn, -1)))
  const events: string[] = []
  const log = jsonLog({ write: (line) => events.push((JSON.parse(line) as { event: string }).event) })
  const last = await start('copy', at, { log })
  await expect.poll(() => events, { timeout: 10_000 }).toContain('timeline_not_repaired')
  await expect(status(last)).rejects.toMatchObject({ code: 'bad_file' })
})

test('damage that a subscriber meets is repaired, and until then the subscriber is sent elsewhere', async () => {
  const { at, copy, committed, endLsn } = await pair()
  // Its first check is over by then.
  await whole(copy, committed)
  await flipBit(at, 'copy', advance(START, 1_234_567))
  expect(await follow(copy, endLsn)).toBeDefined()
  while ((await follow(copy, endLsn)) !== undefined) await realClock.sleep(10)
  await whole(copy, committed)
})

test('a donor that is damaged at the same place is of no use, another one is', async () => {
  const { at, donor, copy, committed, endLsn } = await pair()
  const third = await start('third', at)
  await pulled(third, [donor])
  for (const each of [donor, copy, third]) await configure(each, membership(2, [donor, copy, third]))
  await copy.stop()
  await flipBit(at, 'copy', advance(endLsn, -30_000))
  await flipBit(at, 'donor', advance(endLsn, -30_000))
  const again = await start('copy', at)
  await whole(again, committed)
})

/** Reads all of it as a pageserver does; what it failed with. */
async function follow({ client }: Safekeeper, endLsn: Lsn): Promise<unknown> {
  const stream = openBidi<SubscribeWalRequest, SubscribeWalResponse>(client.subscribeWal.bind(client))
  const shard = { number: 0, count: 1, stripeBlocks: 256 }
  const open = {
    protocolVersion: 1,
    protocolVersionMax: 0,
    timeline: REF,
    shard,
    startLsn: BigInt(START),
    windowBytes: 0n,
    trackCommitTimestamp: false,
  }
  try {
    await stream.send({ message: { $case: 'open', value: open } })
    for await (const batch of stream.messages) {
      if (batch.endLsn >= BigInt(endLsn)) return undefined
      const value = { ingestedLsn: batch.endLsn, remoteConsistentLsn: 0n }
      await stream.send({ message: { $case: 'feedback', value } })
    }
    return undefined
  } catch (error) {
    return error
  }
}
