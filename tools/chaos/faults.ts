/**
 * Everything that can be done to a cluster. A fault strikes, holds for a while, and is healed; its cost to commits
 * is part of it. Never more than one safekeeper is down, but where a majority is lost on purpose.
 */
import { statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { assert, isErrorCode, present } from '@understory/base'
import type { Rng } from '@understory/env'
import { runCommand, startProcess } from '@understory/testcontainers'
import type { ClusterNode, Cut } from '@understory/testcontainers'
import { SMALL_DISK_NODES, TENANT, setImmutable, until } from './lab.ts'
import type { Lab, Need } from './lab.ts'
import { killProxyAlone } from './proxy-death.ts'

/**
 * The effect on commits. `continue`: they must continue. `wait`: they stand behind a large record in the WAL. `stop`:
 * there must be none, for a majority is lost. `compute`: they stop until the compute is back. `adopt`: they wait until
 * another compute-proxy has adopted Postgres, and no client notices more.
 */
export type Effect = 'continue' | 'wait' | 'stop' | 'compute' | 'adopt'

export interface Struck {
  /** The target, in few words. */
  readonly target: string
  readonly heal: () => Promise<void>
}

export interface FaultKind {
  readonly name: string
  readonly effect: Effect
  readonly needs?: Need
  /** How long it lasts, where that is longer than usual. */
  readonly holdMs?: number
  readonly strike: (lab: Lab, rng: Rng) => Promise<Struck>
}

const KIB = 1024
/** The smallest that a safekeeper takes; a record of `LARGE_RECORD_BYTES` does not fit. */
const QUOTA_MIB = 64
const LARGE_RECORD_BYTES = 100_000_000
/** Commits that must not be acknowledged gather for so long. */
const IN_FLIGHT_MS = 500
const pick = <T>(items: readonly T[], rng: Rng): T => present(items[rng.below(items.length)], 'item')
const safekeeper = (lab: Lab, rng: Rng): ClusterNode => pick(lab.cluster.safekeepers, rng)
const pageserver = (lab: Lab, rng: Rng): ClusterNode => pick(lab.cluster.pageservers, rng)
const controlPlane = (lab: Lab): ClusterNode => lab.cluster.controlPlane
type Choice = (lab: Lab, rng: Rng) => ClusterNode

const killed =
  (choose: Choice): FaultKind['strike'] =>
  async (lab, rng) => {
    const node = choose(lab, rng)
    await node.kill()
    return { target: node.nodeId, heal: () => node.start() }
  }

const paused =
  (choose: Choice): FaultKind['strike'] =>
  async (lab, rng) => {
    const { nodeId, pid } = choose(lab, rng)
    return { target: nodeId, heal: pause(pid) }
  }

function pause(pid: number): () => Promise<void> {
  process.kill(pid, 'SIGSTOP')
  return async () => {
    sendIfThere(pid, 'SIGCONT')
  }
}

const cutOff =
  (choose: Choice, cut: Cut): FaultKind['strike'] =>
  async (lab, rng) => {
    const { nodeId } = choose(lab, rng)
    await lab.network.cut(nodeId, cut)
    return { target: nodeId, heal: () => lab.network.heal(nodeId) }
  }

/** A process that is gone already has had what it was to get. */
function sendIfThere(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

const signalled =
  (
    signal: NodeJS.Signals,
    whom: readonly ('proxyPid' | 'postmasterPid')[],
    target: string,
  ): FaultKind['strike'] =>
  async (lab) => {
    const compute = await lab.compute()
    for (const which of whom) sendIfThere(compute[which], signal)
    return { target, heal: async () => undefined }
  }

/** Two of three, by one way drawn for both. */
async function loseMajority(lab: Lab, rng: Rng): Promise<Struck> {
  const spared = safekeeper(lab, rng)
  const victims = lab.cluster.safekeepers.filter((node) => node !== spared)
  assert(victims.length * 2 > lab.cluster.safekeepers.length, () => 'that is not a majority')
  const ways = ['killed', 'paused', ...(isThere(lab, 'network') ? ['cut off'] : [])]
  const way = pick(ways, rng)
  const heals = await Promise.all(
    victims.map(async (node) => {
      if (way === 'paused') return pause(node.pid)
      if (way === 'cut off') {
        await lab.network.cut(node.nodeId, 'both')
        return () => lab.network.heal(node.nodeId)
      }
      await node.kill()
      return () => node.start()
    }),
  )
  return {
    target: `all but ${spared.nodeId}, ${way}`,
    heal: async () => void (await Promise.all(heals.map((heal) => heal()))),
  }
}

/** Commits acknowledged before are on one safekeeper at the least, and the compute's own disk is gone. */
async function loseMajorityAndCompute(lab: Lab, rng: Rng): Promise<Struck> {
  const { proxyPid, postmasterPid } = await lab.compute()
  const { target, heal } = await loseMajority(lab, rng)
  await delay(IN_FLIGHT_MS)
  for (const pid of [proxyPid, postmasterPid]) sendIfThere(pid, 'SIGKILL')
  return { target: `${target}, then the compute`, heal }
}

const isThere = (lab: Lab, need: Need): boolean => !lab.missing.some((item) => item.need === need)

async function delayPackets(lab: Lab, rng: Rng): Promise<Struck> {
  const node = safekeeper(lab, rng)
  const proxy = lab.proxy(node)
  proxy.delayMs = 20 + rng.below(300)
  return {
    target: `${node.nodeId}, ${proxy.delayMs} ms`,
    heal: async () => {
      proxy.delayMs = 0
    },
  }
}

async function resetConnections(lab: Lab, rng: Rng): Promise<Struck> {
  const node = safekeeper(lab, rng)
  const proxy = lab.proxy(node)
  const again = setInterval(() => proxy.reset(), 100 + rng.below(500))
  proxy.reset()
  return { target: node.nodeId, heal: async () => clearInterval(again) }
}

async function resize(path: string, sizeBytes: number): Promise<void> {
  const args = ['-o', `remount,size=${Math.ceil(sizeBytes / KIB)}k`, path]
  await runCommand({ name: 'mount', command: 'mount', args })
}

/** More than is left on a disk that is to fill. */
const FILL_BYTES = 4_000_000

/** Its disk has some 100 KiB left, and is filled by more WAL than that. */
async function fillDisk(lab: Lab): Promise<Struck> {
  const node = present(
    lab.cluster.safekeepers.find(({ nodeId }) => nodeId === SMALL_DISK_NODES.safekeeper),
    'safekeeper on a disk of its own',
  )
  const { dataDirectory, nodeId } = node
  const { bsize, blocks } = await statfs(dataDirectory)
  const heal = (): Promise<void> => resize(dataDirectory, blocks * bsize)
  return healedOnError(heal, async () => {
    await until(`${nodeId} to notice its disk`, 20_000, async () => {
      if ((await lab.walStatus(node)).failure !== '') return true
      const now = await statfs(dataDirectory)
      // At first; and again where stored WAL was trimmed, which may be all that the disk needed.
      if (now.bfree * now.bsize > FILL_BYTES / 4) {
        await resize(dataDirectory, (now.blocks - now.bfree) * bsize + 100 * KIB)
        await lab.withSql((client) =>
          client.query(`select pg_logical_emit_message(true, 'bulk', repeat('x', ${FILL_BYTES}))`),
        )
      }
      return undefined
    })
    return { target: nodeId, heal }
  })
}

/** Half of the room that a pageserver keeps free for documents. */
const PAGESERVER_LEFT_BYTES = 8 * KIB * KIB

/**
 * Layers find no room, also once all that the object store has are gone: a shard there stalls, takes WAL in as long as
 * its memory is not full, and continues by itself.
 */
async function fillPageserverDisk(lab: Lab): Promise<Struck> {
  const node = present(
    lab.cluster.pageservers.find(({ nodeId }) => nodeId === SMALL_DISK_NODES.pageserver),
    'pageserver on a disk of its own',
  )
  const { dataDirectory, nodeId } = node
  const { bsize, blocks } = await statfs(dataDirectory)
  const heal = (): Promise<void> => resize(dataDirectory, blocks * bsize)
  return healedOnError(heal, async () => {
    await until(`${nodeId} to notice its disk`, 20_000, async () => {
      const now = await statfs(dataDirectory)
      // Layers that the store has were removed.
      if (now.bfree * bsize > PAGESERVER_LEFT_BYTES)
        await resize(dataDirectory, (now.blocks - now.bfree) * bsize + PAGESERVER_LEFT_BYTES)
      return (await lab.flush(node))?.includes('could not write a layer') === true ? true : undefined
    })
    return { target: nodeId, heal }
  })
}

/**
 * Number 1 of a process namespace of its own, as in a container, where a process has the same number after each start.
 */
const AS_INIT = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc', '--']

/** Killed while it starts, and soon after, a few times in a row. */
async function killAsInit(lab: Lab, rng: Rng): Promise<Struck> {
  const node = pick([...lab.cluster.safekeepers, ...lab.cluster.pageservers], rng)
  await node.kill()
  const afterMs = Array.from({ length: 4 }, () => 500 + rng.below(1_500))
  for (const ms of afterMs) await node.startAndKill(ms, AS_INIT)
  return { target: `${node.nodeId}, after ${afterMs.join(', ')} ms`, heal: () => node.start() }
}

/** Every write and sync of its main process fails with EIO. */
async function failSyncs(lab: Lab, rng: Rng): Promise<Struck> {
  const node = safekeeper(lab, rng)
  const calls = 'fsync,fdatasync,write,pwrite64,pwritev,pwritev2'
  // Only what goes to files of the log: sockets and pipes are written too.
  const args = ['-f', '-qq', '-o', '/dev/null', '-p', String(node.pid)]
  const inject = ['-e', `trace=${calls}`, '-e', `inject=fsync,fdatasync,pwrite64,pwritev,pwritev2:error=EIO`]
  const strace = await startProcess({ name: 'strace', command: 'strace', args: [...args, ...inject] })
  // The timeline is opened again by itself.
  const heal = async (): Promise<void> => void (await strace.stop('SIGINT'))
  return healedOnError(heal, async () => {
    await failed(lab, node)
    return { target: node.nodeId, heal }
  })
}

/** Its timeline's folder is immutable: the next segment cannot be made, while the process lives and answers. */
async function stallTimeline(lab: Lab, rng: Rng): Promise<Struck> {
  // The one on a tmpfs cannot be made so.
  const node = pick(
    lab.cluster.safekeepers.filter(({ nodeId }) => nodeId !== SMALL_DISK_NODES.safekeeper),
    rng,
  )
  const folder = lab.timelineFolder(node)
  await setImmutable(folder, true)
  const heal = async (): Promise<void> => {
    await node.kill()
    await setImmutable(folder, false)
    await node.start()
  }
  return healedOnError(heal, async () => {
    await lab.withSql((client) => client.query('select pg_switch_wal()'))
    await failed(lab, node)
    return { target: node.nodeId, heal }
  })
}

/** A record that is larger than its quota: it can neither take it whole nor release its beginning. */
async function reachQuota(lab: Lab, rng: Rng): Promise<Struck> {
  const node = safekeeper(lab, rng)
  const heal = async (): Promise<void> => {
    await node.kill()
    await node.start()
  }
  await node.kill()
  await node.start({ UNDERSTORY_SAFEKEEPER_TIMELINE_QUOTA_MIB: String(QUOTA_MIB) })
  return healedOnError(heal, async () => {
    await emitRecord(lab)
    await failed(lab, node)
    return { target: node.nodeId, heal }
  })
}

const emitRecord = (lab: Lab): Promise<unknown> =>
  lab.withSql((client) =>
    client.query(`select pg_logical_emit_message(false, 'bulk', repeat('x', ${LARGE_RECORD_BYTES}))`),
  )

/** No fault, but what is to be possible at any moment. */
async function writeLargeRecord(lab: Lab): Promise<Struck> {
  await emitRecord(lab)
  return { target: `${LARGE_RECORD_BYTES} bytes`, heal: async () => undefined }
}

/** Waits until the safekeeper says that it takes no more WAL, or that it could not open the timeline again. */
async function failed(lab: Lab, node: ClusterNode): Promise<void> {
  await until(`${node.nodeId} to notice its disk`, 20_000, async () => {
    try {
      return (await lab.walStatus(node)).failure === '' ? undefined : true
    } catch (error) {
      if (isErrorCode(error, 'disk_failed')) return true
      throw error
    }
  })
}

async function healedOnError(heal: () => Promise<void>, strike: () => Promise<Struck>): Promise<Struck> {
  try {
    return await strike()
  } catch (error) {
    await heal()
    throw error
  }
}

/** Its wall clock jumps by up to days, forth and back, while it runs. */
async function jumpClock(lab: Lab, rng: Rng): Promise<Struck> {
  const node = pick([...lab.cluster.safekeepers, ...lab.cluster.pageservers, lab.cluster.controlPlane], rng)
  const file = join(lab.folder, `clock-of-${node.nodeId}`)
  const set = (offsetS: number): Promise<void> => writeFile(file, `${offsetS < 0 ? '' : '+'}${offsetS}\n`)
  await set(0)
  await node.kill()
  // Only the wall clock: Linux's monotonic clock never jumps, and Node ends itself where it does.
  await node.start({
    LD_PRELOAD: present(lab.faketime, 'faketime'),
    FAKETIME_TIMESTAMP_FILE: file,
    FAKETIME_NO_CACHE: '1',
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
    DONT_FAKE_MONOTONIC: '1',
  })
  const offsetsS = [1 + rng.below(200_000), -1 - rng.below(200_000)]
  await set(offsetsS[0] as number)
  await delay(700)
  await set(offsetsS[1] as number)
  return {
    target: `${node.nodeId}, ${offsetsS.map((s) => `${s > 0 ? '+' : ''}${s} s`).join(', ')}`,
    heal: async () => {
      await node.kill()
      await node.start()
    },
  }
}

/** No fault, but what is to be safe at any moment. */
async function switchFullPageWrites(lab: Lab): Promise<Struck> {
  const { wanted } = await lab.client.getFullPageWrites(TENANT)
  const next = wanted === 'on' ? 'off' : 'on'
  await lab.client.switchFullPageWrites(TENANT, next)
  return {
    target: `to ${next}`,
    heal: async () => void (await lab.client.waitForFullPageWrites(TENANT, { timeoutMs: 120_000 })),
  }
}

/** Longer than any address or announcement lives in it. */
const BROKER_HOLD_MS = 90_000

async function loseBroker(lab: Lab): Promise<Struck> {
  await lab.redis.kill()
  return { target: 'Redis', heal: async () => await lab.redis.start() }
}

/**
 * The host comes back while the broker is away: what it is to run, and where everything is, it cannot learn from there.
 */
async function loseBrokerAndHost(lab: Lab, rng: Rng): Promise<Struck> {
  const { heal } = await loseBroker(lab)
  return healedOnError(heal, async () => {
    const host = await killed(() => lab.cluster.computeHost)(lab, rng)
    await host.heal()
    await lab.compute()
    return { target: `Redis, then ${host.target}`, heal }
  })
}

const faults = (
  effect: Effect,
  needs: Need | undefined,
  kinds: Readonly<Record<string, FaultKind['strike']>>,
): FaultKind[] =>
  Object.entries(kinds).map(([name, strike]) => ({
    name,
    effect,
    strike,
    ...(needs === undefined ? {} : { needs }),
  }))

export const FAULTS: readonly FaultKind[] = [
  ...faults('continue', undefined, {
    'safekeeper killed': killed(safekeeper),
    'pageserver killed': killed(pageserver),
    'control plane killed': killed(controlPlane),
    'safekeeper paused': paused(safekeeper),
    'pageserver paused': paused(pageserver),
    'control plane paused': paused(controlPlane),
    'safekeeper delayed': delayPackets,
    'safekeeper reset': resetConnections,
    'full_page_writes switched': switchFullPageWrites,
  }),
  ...faults('continue', 'network', {
    'safekeeper cut off': cutOff(safekeeper, 'both'),
    'safekeeper deaf': cutOff(safekeeper, 'in'),
    'safekeeper mute': cutOff(safekeeper, 'out'),
    'safekeeper loses packets': cutOff(safekeeper, { lossPercent: 20 }),
    'pageserver cut off': cutOff(pageserver, 'both'),
    'pageserver mute': cutOff(pageserver, 'out'),
  }),
  ...faults('continue', 'mount', {
    'safekeeper disk full': fillDisk,
    'pageserver disk full': fillPageserverDisk,
    'restarted as init': killAsInit,
  }),
  ...faults('wait', undefined, {
    'safekeeper at its quota': reachQuota,
    'record of 100 MB': writeLargeRecord,
  }),
  ...faults('continue', 'chattr', { 'safekeeper stalled': stallTimeline }),
  ...faults('continue', 'strace', { 'safekeeper sync fails': failSyncs }),
  ...faults('continue', 'faketime', { 'clock jumps': jumpClock }),
  { name: 'broker away', effect: 'continue', needs: 'redis', holdMs: BROKER_HOLD_MS, strike: loseBroker },
  ...faults('compute', 'redis', { 'broker away, compute host killed': loseBrokerAndHost }),
  ...faults('adopt', undefined, { 'compute-proxy killed': killProxyAlone }),
  ...faults('compute', undefined, {
    'Postgres killed': signalled('SIGKILL', ['postmasterPid'], 'postmaster'),
    'compute killed': signalled('SIGKILL', ['proxyPid', 'postmasterPid'], 'both'),
    'majority and compute lost': loseMajorityAndCompute,
    'compute host killed': killed((lab) => lab.cluster.computeHost),
    'compute-proxy paused': async (lab) => ({
      target: 'compute-proxy',
      heal: pause((await lab.compute()).proxyPid),
    }),
  }),
  ...faults('stop', undefined, { 'majority lost': loseMajority }),
]
