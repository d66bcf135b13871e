/** One run: a safekeeper process of its own, a timeline with real WAL, and shards that follow it. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { advance, bytesBetween, lsnToBigint, maxLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { WAL_SEGMENT_BYTES } from '@understory/postgres/wal'
import { PLAIN_CLIENT, SafekeeperServiceClient, callUnary, createClient } from '@understory/rpc'
import type { TimelineRef } from '@understory/rpc'
import { appCommand, freePort, startProcess, temporaryDirectory } from '@understory/testcontainers'
import { SingleProposer } from '../../apps/safekeeper/test/single-proposer.ts'
import { cpuSecondsOf } from '../commit/cpu.ts'
import { recordEndAt } from './recorded-wal.ts'
import type { RecordedWal } from './recorded-wal.ts'
import { startShards } from './shards.ts'
import type { Rpc } from './shards.ts'

/**
 * tip       shards are subscribed before the WAL comes, and follow it
 * catch-up  shards subscribe once all WAL is there, each at another old position
 */
export type Mode = 'tip' | 'catch-up'

export interface Side {
  readonly name: string
  /** Checkout whose safekeeper runs. */
  readonly root: string | undefined
  readonly rpc: Rpc
}

export interface Run {
  readonly side: string
  readonly mode: Mode
  readonly shards: number
  /** WAL that was committed while it was measured, or that the shards had to catch up with. */
  readonly walMegabytes: number
  readonly cpuSeconds: number
  readonly cpuSecondsPerMegabyte: number
  readonly seconds: number
  readonly messages: number
  readonly sentMegabytes: number
  readonly peakRssMebibytes: number
}

const CHUNK_BYTES = 64 * 1024
/** Some record ends in so much WAL, be it that a segment was left early. */
const UNFLUSHED_BYTES_MAX = WAL_SEGMENT_BYTES + 4 * CHUNK_BYTES
/** The proposer waits for shards that are further behind. */
const LAG_BYTES_MAX = 2 * 1024 * 1024
/** Of shards that catch up: the first begins at the start, the last here. */
const CATCH_UP_PART_MAX = 0.5
const TIMELINE: TimelineRef = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }

interface Pace {
  (lsn: Lsn): Promise<void>
}

/** Sends all WAL, and commits each chunk once it is flushed. */
async function propose(client: SafekeeperServiceClient, wal: RecordedWal, pace: Pace): Promise<void> {
  const leader = new SingleProposer(client)
  try {
    await leader.lead(TIMELINE, wal.identity, 1)
    let sentLsn = wal.startLsn
    while (sentLsn < wal.endLsn) {
      const at = bytesBetween(wal.startLsn, sentLsn)
      const chunk = wal.bytes.subarray(at, at + CHUNK_BYTES)
      const commitLsn = leader.flushLsn
      await leader.append(sentLsn, chunk, commitLsn)
      sentLsn = advance(sentLsn, chunk.length)
      await leader.flushed(maxLsn(wal.startLsn, advance(sentLsn, -UNFLUSHED_BYTES_MAX)))
      await pace(maxLsn(wal.startLsn, advance(maxLsn(wal.startLsn, commitLsn), -LAG_BYTES_MAX)))
    }
    await leader.flushed(wal.endLsn)
    await leader.commit(wal.endLsn)
  } finally {
    leader.close()
  }
}

async function peakRssMebibytes(pid: number): Promise<number> {
  const [, kibibytes] = /VmHWM:\s+(\d+) kB/.exec(await readFile(`/proc/${pid}/status`, 'utf8')) ?? []
  return Math.round(Number(kibibytes) / 1024)
}

export async function measure(side: Side, mode: Mode, shardsCount: number, wal: RecordedWal): Promise<Run> {
  await using folder = await temporaryDirectory({ prefix: 'bench-fanout' })
  const port = await freePort()
  const [command = '', ...flags] = await appCommand('safekeeper', side.root)
  await using safekeeper = await startProcess({
    name: 'safekeeper',
    command,
    args: [
      ...flags,
      '--node-id',
      'sk-1',
      '--listen',
      `127.0.0.1:${port}`,
      '--data-dir',
      join(folder.path, 'd'),
    ],
    ready: /"event":"started"/,
    readyTimeoutMs: 30_000,
  })
  const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, `127.0.0.1:${port}`)
  try {
    const startLsn = lsnToBigint(wal.startLsn)
    await callUnary(client.createTimeline.bind(client), {
      timeline: TIMELINE,
      postgres: wal.identity,
      startLsn,
    })
    const places = Array.from({ length: shardsCount }, (_, i) =>
      mode === 'tip' ? 0 : (CATCH_UP_PART_MAX * i) / Math.max(1, shardsCount - 1),
    )
    const startLsns = places.map((part) => (part === 0 ? wal.startLsn : recordEndAt(wal, part)))
    if (mode === 'catch-up') await propose(client, wal, async () => undefined)
    const [cpuBefore, beganMs] = [await cpuSecondsOf([safekeeper.pid]), performance.now()]
    const shards = startShards({ client, timeline: TIMELINE, rpc: side.rpc, startLsns })
    try {
      if (mode === 'tip') await propose(client, wal, (lsn) => shards.reached(lsn))
      await shards.reached(wal.endLsn)
      const seconds = (performance.now() - beganMs) / 1000
      const cpuSeconds = (await cpuSecondsOf([safekeeper.pid])) - cpuBefore
      const walMegabytes = wal.bytes.length / 1e6
      return {
        side: side.name,
        mode,
        shards: shardsCount,
        walMegabytes,
        cpuSeconds,
        cpuSecondsPerMegabyte: cpuSeconds / walMegabytes,
        seconds,
        messages: shards.messages,
        sentMegabytes: shards.bytes / 1e6,
        peakRssMebibytes: await peakRssMebibytes(safekeeper.pid),
      }
    } finally {
      shards.close()
    }
  } finally {
    client.close()
    await safekeeper.stop('SIGKILL')
  }
}
