/**
 * Goal: a safekeeper with many timelines stays small: 200 idle ones and 10 that are written as fast as it takes WAL,
 * each with a subscriber that reads nothing. Method: the real process, and the most memory that the kernel saw it use.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { advance, lsnToBigint } from '@understory/base'
import { PLAIN_CLIENT, SafekeeperServiceClient, callUnary, createClient, openBidi } from '@understory/rpc'
import type { SubscribeWalRequest, SubscribeWalResponse, TimelineRef } from '@understory/rpc'
import { appCommand, freePort, startProcess, temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, START, WalMaker } from './wal-maker.ts'

const [IDLE_COUNT, BUSY_COUNT] = [200, 10]
const RECORD_BYTES = 7_000
const CHUNK_BYTES = 256 * 1024
const [IDLE_RECORDS, BUSY_RECORDS] = [20, 4_000]
const RSS_BYTES_MAX = 300 * 1024 * 1024

const refOf = (number: number): TimelineRef => ({
  tenantId: 'a'.repeat(32),
  timelineId: number.toString(16).padStart(32, '0'),
})

/** Peak of the resident memory so far, by proc(5). */
async function peakRssBytes(pid: number): Promise<number> {
  const [, kibibytes] = /VmHWM:\s+(\d+) kB/.exec(await readFile(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kibibytes) * 1024
}

async function write(client: SafekeeperServiceClient, ref: TimelineRef, wal: Uint8Array): Promise<void> {
  const leader = new SingleProposer(client)
  try {
    const at = await leader.lead(ref, IDENTITY, 1)
    for (let done = 0; done < wal.length; done += CHUNK_BYTES)
      await leader.append(advance(at, done), wal.subarray(done, done + CHUNK_BYTES))
    const endLsn = advance(at, wal.length)
    await leader.flushed(endLsn)
    await leader.commit(endLsn)
  } finally {
    leader.close()
  }
}

/** Takes its first batch, and nothing after that. */
async function subscribeAndStall(
  client: SafekeeperServiceClient,
  timeline: TimelineRef,
): Promise<() => void> {
  const stream = openBidi<SubscribeWalRequest, SubscribeWalResponse>(client.subscribeWal.bind(client))
  const value = {
    protocolVersion: 1,
    protocolVersionMax: 0,
    timeline,
    shard: { number: 0, count: 1, stripeBlocks: 256 },
    startLsn: lsnToBigint(START),
    windowBytes: 0n,
    trackCommitTimestamp: false,
  }
  await stream.send({ message: { $case: 'open', value } })
  return () => stream.cancel()
}

test('200 idle timelines and 10 busy ones fit into 300 MB', { timeout: 240_000 }, async () => {
  await using folder = await temporaryDirectory({ prefix: 'skm' })
  const port = await freePort()
  const [command = '', ...flags] = await appCommand('safekeeper')
  const args = [...flags, '--node-id', 'sk-1', '--listen', `127.0.0.1:${port}`]
  args.push('--data-dir', join(folder.path, 'data'), '--object-store', join(folder.path, 'objects'))
  const safekeeper = await startProcess({
    name: 'safekeeper',
    command,
    args: [...args, '--keep-wal-mib', '32'],
    ready: /"event":"started"/,
    readyTimeoutMs: 30_000,
  })
  const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, `127.0.0.1:${port}`)
  const stalled: (() => void)[] = []
  const atStart = await peakRssBytes(safekeeper.pid)
  try {
    const create = (timeline: TimelineRef) =>
      callUnary(client.createTimeline.bind(client), {
        timeline,
        postgres: IDENTITY,
        startLsn: lsnToBigint(START),
      })
    // The same bytes for all: they are of one Postgres as far as a safekeeper can see.
    const idle = new WalMaker().records(IDLE_RECORDS, RECORD_BYTES)
    for (let i = 0; i < IDLE_COUNT; i++) {
      await create(refOf(i))
      await write(client, refOf(i), idle)
    }
    const atRest = await peakRssBytes(safekeeper.pid)
    const wal = new WalMaker().records(BUSY_RECORDS, RECORD_BYTES)
    await Promise.all(
      Array.from({ length: BUSY_COUNT }, async (_, i) => {
        const ref = refOf(IDLE_COUNT + i)
        await create(ref)
        stalled.push(await subscribeAndStall(client, ref))
        await write(client, ref, wal)
      }),
    )
    const peak = await peakRssBytes(safekeeper.pid)
    const mib = (bytes: number): string => `${Math.round(bytes / 1024 / 1024)} MiB`
    const total = mib(BUSY_COUNT * wal.length)
    process.stdout.write(
      `safekeeper: ${mib(atStart)} at the start, ${mib(atRest)} with ${IDLE_COUNT} timelines, ${mib(peak)} after ${total} into ${BUSY_COUNT} more\n`,
    )
    expect(peak).toBeLessThan(RSS_BYTES_MAX)
  } finally {
    for (const cancel of stalled) cancel()
    client.close()
    await safekeeper.stop('SIGKILL')
  }
})
