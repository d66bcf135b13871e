/**
 * Goal: the safekeepers of a timeline change under load without a lost commit and almost without a pause, with any
 * process killed on the way. Method: a cluster of real processes with one safekeeper more than needed and a real
 * Postgres under load, whose clients keep a ledger; the time of every acknowledged commit is noted.
 */
import { open, readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { parseLsn, present } from '@understory/base'
import type { SafekeepersView } from '@understory/sdk'
import type { ClusterNode } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loseCompute, runCli, startRoad, until } from './cluster-support.ts'
import type { Load, Road } from './cluster-support.ts'

let road: Road

beforeAll(async () => {
  road = await startRoad({ safekeepers: 4 })
  await road.loadTpcb()
})
afterAll(() => road?.[Symbol.asyncDispose]())

const safekeeper = (nodeId: string): ClusterNode =>
  present(
    road.cluster.safekeepers.find((node) => node.nodeId === nodeId),
    nodeId,
  )
const view = (): Promise<SafekeepersView> => road.client.getSafekeepers(road.tenant)
async function members(): Promise<string[]> {
  return (await view()).safekeepers
    .filter(({ role }) => role === 'member')
    .map(({ node }) => node)
    .toSorted()
}
async function spare(): Promise<string> {
  const taken = await members()
  return present(
    road.cluster.safekeepers.find(({ nodeId }) => !taken.includes(nodeId)),
    'spare safekeeper',
  ).nodeId
}

/** The longest time between two acknowledged commits while `during` ran. */
async function longestPause(load: Load, during: () => Promise<void>): Promise<number> {
  const { progress } = load
  let { committed } = progress
  let lastMs = performance.now()
  let longestMs = 0
  Object.defineProperty(progress, 'committed', {
    configurable: true,
    enumerable: true,
    get: () => committed,
    set: (value: number) => {
      const nowMs = performance.now()
      longestMs = Math.max(longestMs, nowMs - lastMs)
      lastMs = nowMs
      committed = value
    },
  })
  await during()
  await load.moreCommits(20)
  Object.defineProperty(progress, 'committed', { value: committed, writable: true })
  return longestMs
}

test('a safekeeper is replaced under load: no commit is lost, and commits pause for less than a second', async () => {
  const before = await members()
  const [from] = before as [string]
  const to = await spare()
  let pauseMs = 0
  const { stats, check } = await road.underLoad(async (load) => {
    await load.moreCommits(500)
    pauseMs = await longestPause(load, async () => {
      const args = ['safekeeper', 'replace', '--tenant', road.tenant, '--from', from, '--to', to]
      const cli = await runCli(road.cluster, ...args)
      expect(cli).toMatchObject({ code: 0 })
      process.stderr.write(cli.stdout)
    })
    await load.moreCommits(500)
  })
  const after = await view()
  process.stderr.write(
    `replaced ${from} by ${to} in ${after.change?.tookMs} ms: longest time between two commits ${pauseMs.toFixed(0)} ms, ` +
      `${check.acknowledged} acknowledged commits, ${check.lostCommits} lost, ${stats.connectionsLost} connections lost\n`,
  )
  expect(await members()).toEqual([...before.filter((node) => node !== from), to].toSorted())
  expect(stats.connectionsLost).toBe(0)
  expect(pauseMs).toBeLessThan(1_000)

  // The one that left is not missed, and the one that came counts: with one more away commits continue.
  const [other] = before.filter((node) => node !== from) as [string]
  await road.underLoad(async (load) => {
    await Promise.all([safekeeper(from).kill(), safekeeper(other).kill()])
    await load.moreCommits(100)
    await road.ingested()
    await Promise.all([safekeeper(from).start(), safekeeper(other).start()])
  })
})

test('a safekeeper joins and another leaves, each by itself, under load', async () => {
  const before = await members()
  const joining = await spare()
  const leaving = present(before[0], 'member')
  const pauses: number[] = []
  const { stats } = await road.underLoad(async (load) => {
    for (const args of [
      ['add', '--node', joining],
      ['remove', '--node', leaving],
    ]) {
      const pauseMs = await longestPause(load, async () => {
        expect(await runCli(road.cluster, 'safekeeper', ...args, '--tenant', road.tenant)).toMatchObject({
          code: 0,
        })
      })
      pauses.push(Math.round(pauseMs))
      if (args[0] === 'add') expect(await members()).toEqual([...before, joining].toSorted())
      await load.moreCommits(100)
    }
  })
  process.stderr.write(
    `longest time between two commits: ${pauses[0]} ms to join, ${pauses[1]} ms to leave\n`,
  )
  expect(await members()).toEqual([...before.filter((node) => node !== leaving), joining].toSorted())
  expect(stats.connectionsLost).toBe(0)
  expect(Math.max(...pauses)).toBeLessThan(1_000)
})

/** Asks for the replacement of some member by the spare. */
async function beginReplacement(): Promise<{ from: string; to: string }> {
  const from = present((await members())[0], 'member')
  const to = await spare()
  await road.client.changeSafekeepers(road.tenant, { remove: [from], add: [to] })
  return { from, to }
}
const isOver = async (): Promise<true | undefined> =>
  (await view().catch(() => undefined))?.change?.done === true ? true : undefined
const currentStep = async (): Promise<string | undefined> =>
  (await view()).change?.steps.find(({ done }) => !done)?.name

/** Waits for the step, or for the end where it was over before it was seen. */
async function stepReached(wanted: string): Promise<string> {
  const order = ['pull', 'joint', 'finish', 'spread', 'end']
  for (;;) {
    const step = (await currentStep()) ?? 'end'
    if (order.indexOf(step) >= order.indexOf(wanted)) return step
  }
}

async function expectReplaced({ from, to }: { from: string; to: string }): Promise<void> {
  await until('the change to be done', isOver)
  const now = await members()
  expect(now).toContain(to)
  expect(now).not.toContain(from)
  expect(now).toHaveLength(3)
}

test('with any process killed while newcomers pull, the change continues where it was', async () => {
  await road.underLoad(async (load) => {
    const newcomer = safekeeper(await spare())
    process.kill(newcomer.pid, 'SIGSTOP')
    const change = await beginReplacement()
    await until('the change to be at its pull', async () =>
      (await currentStep()) === 'pull' ? true : undefined,
    )
    await road.cluster.controlPlane.kill()
    await newcomer.kill()
    await load.moreCommits(50)
    await newcomer.start()
    await road.cluster.controlPlane.start()
    await expectReplaced(change)
  })
})

test('with any process killed while both majorities count, the change continues where it was', async () => {
  await road.underLoad(async (load) => {
    const [first, second] = (await members()).map(safekeeper) as [ClusterNode, ClusterNode]
    const to = await spare()
    await road.client.changeSafekeepers(road.tenant, { remove: [first.nodeId], add: [to] })
    // Without a majority of the old members it cannot end; commits wait.
    process.kill(first.pid, 'SIGSTOP')
    process.kill(second.pid, 'SIGSTOP')
    await until('both majorities to count', async () =>
      (await currentStep()) === 'finish' ? true : undefined,
    )
    await road.cluster.controlPlane.kill()
    await Promise.all([first.kill(), second.kill()])
    await Promise.all([first.start(), second.start(), road.cluster.controlPlane.start()])
    await expectReplaced({ from: first.nodeId, to })
    await load.moreCommits(50)
  })
})

test('a change is cancelled while the newcomer pulls or while both majorities count, and may be requested again', async () => {
  await road.underLoad(async (load) => {
    const before = await members()
    const newcomer = safekeeper(await spare())
    for (const step of ['pull', 'finish'] as const) {
      if (step === 'pull') process.kill(newcomer.pid, 'SIGSTOP')
      const { from, to } = await beginReplacement()
      const [first, second] = before.map(safekeeper) as [ClusterNode, ClusterNode]
      // Without two of the old members it cannot end.
      if (step === 'finish') for (const { pid } of [first, second]) process.kill(pid, 'SIGSTOP')
      await until(`the change to be at ${step}`, async () =>
        (await currentStep()) === step ? true : undefined,
      )
      const cli = await runCli(road.cluster, 'safekeeper', 'cancel', '--tenant', road.tenant)
      expect(cli).toMatchObject({ code: 0, stderr: '' })
      expect(cli.stdout).toContain(`-${from} +${to}`)
      for (const { pid } of step === 'pull' ? [newcomer] : [first, second]) process.kill(pid, 'SIGCONT')
      await until('the change to be cancelled', isOver)
      expect(await members()).toEqual(before)
      await load.moreCommits(50)
    }
    await expectReplaced(await beginReplacement())
  })
})

test('a compute that is lost while both majorities count is rebuilt under them', async () => {
  await road.underLoad(async (load) => {
    const change = await beginReplacement()
    await loseCompute(road, load)
    await load.moreCommits(20)
    await expectReplaced(change)
  })
})

test('at any moment that one of them is killed, the change ends and no commit is lost', async () => {
  const hit: string[] = []
  await road.underLoad(async (load) => {
    for (const wanted of ['pull', 'finish', 'spread'] as const) {
      for (const who of ['control plane', 'newcomer', 'leaver', 'stayer', 'compute'] as const) {
        const change = await beginReplacement()
        const stayer = present(
          road.cluster.safekeepers.find(({ nodeId }) => nodeId !== change.from && nodeId !== change.to),
          'stayer',
        )
        const node = {
          'control plane': road.cluster.controlPlane,
          newcomer: safekeeper(change.to),
          leaver: safekeeper(change.from),
          stayer,
          compute: undefined,
        }[who]
        const { pid, postmasterPid } = await road.runningCompute()
        // Steps are short: it strikes within some milliseconds of the one that is wanted, or right after.
        const step = await stepReached(wanted)
        if (node === undefined) for (const each of [pid, postmasterPid]) process.kill(each, 'SIGKILL')
        else await node.kill()
        hit.push(`${who} in ${step}`)
        await load.moreCommits(10)
        await node?.start()
        await road.allNodesKnown()
        await expectReplaced(change)
      }
    }
  })
  process.stderr.write(`killed: ${hit.join(', ')}\n`)
})

/** Waits until it has everything that is flushed now. */
async function caughtUp({ nodeId }: ClusterNode): Promise<void> {
  const goal = await road.flushLsn()
  await until(`${nodeId} to catch up`, async () => {
    const row = (await view()).safekeepers.find(({ node }) => node === nodeId)
    return row !== undefined && parseLsn(row.flushLsn) >= goal ? true : undefined
  })
}

test('a safekeeper with a flipped bit in its log says so, is repaired from its peers and takes part again', async () => {
  const victim = safekeeper(present((await members())[0], 'member'))
  await road.underLoad(async (load) => {
    await load.moreCommits(200)
    await victim.stop()
    const { tenantId, timelineId } = present((await road.timeline()).timeline?.timeline, 'timeline')
    const folder = join(victim.dataDirectory, 'timelines', tenantId, timelineId)
    const segments = (await readdir(folder)).filter((name) => name.length === 24).toSorted()
    await flipBit(join(folder, segments.at(0) as string), 5_000_000)
    await flipBit(join(folder, segments.at(-1) as string), 40)
    await flipBit(join(folder, 'control'), 60)
    await victim.start()
    await until('it to be repaired', () =>
      victim.log().includes('"event":"timeline_repaired"') ? true : undefined,
    )
    await caughtUp(victim)
    await load.moreCommits(100)
  })
  const events = victim
    .log()
    .split('\n')
    .filter((line) => /control_file_repaired|timeline_not_opened|wal_damaged|timeline_repaired/.test(line))
  for (const line of events) process.stderr.write(`${line}\n`)
  // With another one away it is needed for every commit.
  const other = safekeeper(present((await members())[1], 'another member'))
  await road.underLoad(async (load) => {
    await other.kill()
    await load.moreCommits(100)
    await other.start()
  })
})

async function flipBit(path: string, offset: number): Promise<void> {
  await using file = await open(path, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, offset)
  byte[0] = (byte[0] as number) ^ 0x10
  await file.write(byte, 0, 1, offset)
}

test('a safekeeper that comes back after long catches up from its peers, and the proposer holds no WAL for it', async () => {
  const victim = safekeeper(present((await members())[0], 'member'))
  const { pid } = await road.runningCompute()
  await victim.kill()
  const before = await residentMib(pid)
  // Some 200 MB of WAL, far more than the proposer keeps.
  await road.query('create table big (t text)')
  for (let i = 0; i < 8; i++)
    await road.query('insert into big select repeat(md5(g::text), 30) from generate_series(1, 25000) g')
  const grown = (await residentMib(pid)) - before
  const startedMs = performance.now()
  await victim.start()
  await caughtUp(victim)
  const tookMs = performance.now() - startedMs
  const line = await until('the pull to be reported', () =>
    victim
      .log()
      .split('\n')
      .find((text) => text.includes('"event":"caught_up"')),
  )
  process.stderr.write(
    `caught up in ${tookMs.toFixed(0)} ms: ${line}; the proposer grew by ${grown.toFixed(0)} MiB\n`,
  )
  const { bytes } = JSON.parse(line) as { bytes: number }
  expect(bytes).toBeGreaterThan(100 * 1024 * 1024)
  expect(grown).toBeLessThan(150)
  await road.underLoad((load) => load.moreCommits(50))
})

async function residentMib(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+) kB/.exec(text)?.[1]) / 1024
}

test('after all of it storage has every page that Postgres has', async () => {
  await road.ingested()
  await road.expectVerified()
})
