/**
 * Goal: the real process loses nothing that it acknowledged, and says clearly what is wrong with its surroundings.
 * Method: start it, kill it with SIGKILL in the middle of appends, start it again on the same folder; give it a taken
 * port, wrong flags. (How it lives with too little room: disk-space.test.ts.)
 */
import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { advance, lsnFromBigint, lsnToBigint, minLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  PLAIN_CLIENT,
  SafekeeperServiceClient,
  callServerStream,
  callUnary,
  createClient,
} from '@understory/rpc'
import { WalStreamDecoder } from '@understory/postgres/wal'
import { freePort, startProcess, temporaryDirectory } from '@understory/testcontainers'
import type { RunningProcess } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, START, WalMaker } from './wal-maker.ts'

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url))
const REF = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }

async function folder(): Promise<string> {
  const made = await temporaryDirectory({ prefix: 'skp' })
  onTestFinished(() => made[Symbol.asyncDispose]())
  return made.path
}

async function start(
  dataDir: string,
  port: number,
): Promise<{ process: RunningProcess; client: SafekeeperServiceClient }> {
  const running = await startProcess({
    name: 'safekeeper',
    command: process.execPath,
    args: [
      '--disable-warning=ExperimentalWarning',
      MAIN,
      '--data-dir',
      dataDir,
      '--listen',
      `127.0.0.1:${port}`,
      '--node-id',
      'sk-1',
    ],
    ready: /"event":"started"/,
    readyTimeoutMs: 15_000,
  })
  const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, `127.0.0.1:${port}`)
  onTestFinished(async () => {
    client.close()
    await running.stop('SIGKILL')
  })
  return { process: running, client }
}

const create = (client: SafekeeperServiceClient): Promise<unknown> =>
  callUnary(client.createTimeline.bind(client), {
    timeline: REF,
    postgres: IDENTITY,
    startLsn: lsnToBigint(START),
  })
const status = (client: SafekeeperServiceClient) =>
  callUnary(client.getWalStatus.bind(client), { timeline: REF })

async function readWal(client: SafekeeperServiceClient, endLsn: Lsn): Promise<Buffer> {
  const request = { timeline: REF, startLsn: lsnToBigint(START), endLsn: lsnToBigint(endLsn), term: 0n }
  return Buffer.concat(
    (await Array.fromAsync(callServerStream(client.readWal.bind(client), request))).map(({ wal }) => wal),
  )
}

test('what was acknowledged survives SIGKILL in the middle of appends', { timeout: 60_000 }, async () => {
  const [dataDir, port] = [await folder(), await freePort()]
  const sent: Uint8Array[] = []
  let acknowledged: Lsn = START
  for (let round = 1; round <= 4; round++) {
    const { process: running, client } = await start(dataDir, port)
    if (round === 1) await create(client)
    const leader = new SingleProposer(client)
    const at = await leader.lead(REF, IDENTITY, round)
    expect(at).toBeGreaterThanOrEqual(acknowledged)
    // WAL that the acceptor has beyond what it acknowledged is its log: the next term continues there.
    const kept = Buffer.concat(sent).subarray(0, at - START)
    sent.splice(0, sent.length, kept)
    const maker = new WalMaker(round)
    maker.endLsn = at
    maker.lastRecordLsn = lastRecordLsn(kept)
    const killed = (async () => {
      await leader.flushed(advance(at, 300_000))
      running.kill('SIGKILL')
    })()
    const appending = (async () => {
      for (;;) {
        const begin = maker.endLsn
        const wal = maker.records(5, 3_000)
        sent.push(wal)
        await leader.append(begin, wal, minLsn(leader.flushLsn, begin))
      }
    })()
    await Promise.allSettled([killed, appending])
    await running.exited
    // Everything that the stream still delivered was acknowledged.
    await leader.refusal()
    acknowledged = leader.flushLsn > acknowledged ? leader.flushLsn : acknowledged
    client.close()
  }
  const { client } = await start(dataDir, port)
  const now = await status(client)
  expect(lsnFromBigint(now.flushLsn)).toBeGreaterThanOrEqual(acknowledged)
  const commitLsn = lsnFromBigint(now.commitLsn)
  const bytes = await readWal(client, commitLsn)
  const hash = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex')
  expect(hash(bytes)).toBe(hash(Buffer.concat(sent).subarray(0, commitLsn - START)))
})

/** Start of the last record, so that the next one can name it. */
function lastRecordLsn(wal: Uint8Array): Lsn {
  const { major, systemId, walSegmentBytes: segmentBytes } = IDENTITY
  const decoder = new WalStreamDecoder({ startLsn: START, findFirst: true, major, systemId, segmentBytes })
  decoder.push(START, wal)
  while (decoder.next());
  return decoder.lastRecordLsn
}

async function failing(args: readonly string[]): Promise<{ code: number | null; line: string }> {
  const running = await startProcess({
    name: 'safekeeper',
    command: process.execPath,
    args: ['--disable-warning=ExperimentalWarning', MAIN, ...args],
  })
  const { code } = await running.exited
  return {
    code,
    line: running
      .stderr()
      .trim()
      .split('\n')
      .filter((line) => !line.startsWith('{'))
      .join('\n'),
  }
}

test('a start that cannot be gives one line and a fitting exit code', { timeout: 60_000 }, async () => {
  const [dataDir, port] = [await folder(), await freePort()]
  await start(dataDir, port)
  const file = join(dataDir, 'file')
  await writeFile(file, '')
  const other = await folder()
  const cases: [string[], number, RegExp][] = [
    [
      ['--data-dir', other, '--listen', `127.0.0.1:${port}`],
      1,
      /could not listen on 127\.0\.0\.1:\d+ .*Choose another port/,
    ],
    [['--data-dir', dataDir, '--listen', `127.0.0.1:0`], 1, /data folder ".*" is in use/],
    [['--data-dir', file], 1, /data folder ".*" cannot be used/],
    [['--data-dir', other, '--listen', 'nowhere'], 2, /--listen cannot be "nowhere": it must be host:port/],
    [['--data-dri', other], 2, /"--data-dri" is not an option/],
    [[], 2, /option --data-dir is missing/],
  ]
  for (const [args, code, line] of cases) {
    const result = await failing(args)
    expect(result.line).toMatch(line)
    expect(result.line.split('\n'), result.line).toHaveLength(1)
    expect(result.code).toBe(code)
  }
})
