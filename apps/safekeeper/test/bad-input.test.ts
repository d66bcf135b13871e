/**
 * Goal: what a safekeeper must not take is refused with its position, and nothing of it is there afterwards. Method:
 * the real process; wrong WAL and wrong messages from a proposer that leads, SIGKILL behind each, the files compared.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { formatLsn, lsnToBigint } from '@understory/base'
import { PLAIN_CLIENT, SafekeeperServiceClient, callUnary, createClient } from '@understory/rpc'
import type { GetWalStatusResponse } from '@understory/rpc'
import { freePort, startProcess, temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, START, WalMaker } from './wal-maker.ts'

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url))
/** Processes are started again and again. */
const SLOW = { timeout: 60_000 }
const REF = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }

class Safekeeper {
  readonly dataDir: string
  readonly #port: number
  #client: SafekeeperServiceClient | undefined
  kill: () => Promise<void> = async () => undefined

  constructor(dataDir: string, port: number) {
    this.dataDir = dataDir
    this.#port = port
  }

  get client(): SafekeeperServiceClient {
    return this.#client as SafekeeperServiceClient
  }

  async start(): Promise<void> {
    const address = `127.0.0.1:${this.#port}`
    const running = await startProcess({
      name: 'safekeeper',
      command: process.execPath,
      args: [MAIN, '--data-dir', this.dataDir, '--listen', address, '--node-id', 'sk-1'],
      ready: /"event":"started"/,
    })
    this.#client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, address)
    this.kill = async () => {
      this.#client?.close()
      await running.stop('SIGKILL')
    }
  }

  status(): Promise<GetWalStatusResponse> {
    return callUnary(this.client.getWalStatus.bind(this.client), { timeline: REF })
  }

  segment(): Promise<Buffer> {
    const folder = join(this.dataDir, 'timelines', REF.tenantId, REF.timelineId)
    return readFile(join(folder, '000000010000000000000003'))
  }
}

async function startSafekeeper(): Promise<Safekeeper> {
  const folder = await temporaryDirectory({ prefix: 'skb' })
  const safekeeper = new Safekeeper(folder.path, await freePort())
  onTestFinished(async () => {
    await safekeeper.kill()
    await folder[Symbol.asyncDispose]()
  })
  await safekeeper.start()
  const request = { timeline: REF, postgres: IDENTITY, startLsn: lsnToBigint(START) }
  await callUnary(safekeeper.client.createTimeline.bind(safekeeper.client), request)
  return safekeeper
}

const flipped = (wal: Uint8Array, at: number, mask: number): Uint8Array => {
  const damaged = Uint8Array.from(wal)
  damaged[at] = (damaged[at] as number) ^ mask
  return damaged
}

test('WAL of a wrong CRC or chain is refused with its position, and none of it is kept', SLOW, async () => {
  const safekeeper = await startSafekeeper()
  const maker = new WalMaker()
  const first = new SingleProposer(safekeeper.client)
  await first.lead(REF, IDENTITY, 1)
  await first.append(START, maker.records(10, 1_000))
  await first.flushed(maker.endLsn)
  await first.commit(maker.endLsn)
  const at = maker.endLsn
  const right = maker.record(1_000)
  const cases = [
    { wal: flipped(right, 100, 1), says: /checksum/ },
    { wal: flipped(right, 8, 8), says: /previous-record link/ },
  ]
  const before = await safekeeper.segment()
  for (const [i, { wal, says }] of cases.entries()) {
    const leader = new SingleProposer(safekeeper.client)
    await leader.lead(REF, IDENTITY, i + 2)
    await leader.append(at, wal)
    const refusal = await leader.refusal()
    expect(refusal).toMatchObject({ message: expect.stringMatching(says) as unknown })
    expect((refusal as Error).message).toContain(formatLsn(at))
    expect(await safekeeper.status()).toMatchObject({
      flushLsn: BigInt(at),
      commitLsn: BigInt(at),
      failure: '',
    })
    // The cut that follows makes the file shorter for a moment.
    await expect.poll(async () => (await safekeeper.segment()).equals(before)).toBe(true)
    await safekeeper.kill()
    await safekeeper.start()
    expect(await safekeeper.status()).toMatchObject({
      flushLsn: BigInt(at),
      commitLsn: BigInt(at),
      failure: '',
    })
  }
  const last = new SingleProposer(safekeeper.client)
  expect(await last.lead(REF, IDENTITY, 9)).toBe(at)
  await last.append(at, right)
  await last.flushed(maker.endLsn)
})

test(
  'the first WAL of a timeline is refused with its position where it is of another system',
  SLOW,
  async () => {
    const safekeeper = await startSafekeeper()
    const leader = new SingleProposer(safekeeper.client)
    await leader.lead(REF, IDENTITY, 1)
    await leader.append(START, new WalMaker(1, { ...IDENTITY, systemId: 1n }).record(100))
    const refusal = await leader.refusal()
    expect(refusal).toMatchObject({ code: 'bad_wal' })
    expect((refusal as Error).message).toMatch(/system/)
    expect((refusal as Error).message).toContain(formatLsn(START))
    expect(await safekeeper.status()).toMatchObject({ flushLsn: BigInt(START), failure: '' })
  },
)

test('numbers that could be stored but not sent back are refused', SLOW, async () => {
  const safekeeper = await startSafekeeper()
  for (const generation of [2n ** 53n, 2n ** 64n - 1n]) {
    const proposer = new SingleProposer(safekeeper.client)
    proposer.membershipGeneration = generation
    await expect(proposer.greet(REF, IDENTITY)).rejects.toMatchObject({ code: 'bad_argument' })
  }
  const proposer = new SingleProposer(safekeeper.client)
  await proposer.greet(REF, IDENTITY)
  await proposer.say({ $case: 'vote', value: { term: 2n ** 64n - 1n } })
  expect(await proposer.refusal()).toMatchObject({ code: 'bad_argument' })
  expect(await safekeeper.status()).toMatchObject({ term: 0n, membershipGeneration: 0n, failure: '' })
})
