/** The effect of each planned fault on the world when its time has come. */
import { allMembers } from '@understory/consensus'
import type { Rng } from '@understory/env'
import type { AcceptorNode } from './acceptor-node.ts'
import type { PlannedFault } from './faults.ts'
import type { ProposerHost } from './proposer-host.ts'
import type { ProposerNode } from './proposer-node.ts'

/** The part of a world that faults may change. */
export interface Strikable extends ProposerHost {
  readonly proposers: readonly ProposerNode[]
  kill(node: AcceptorNode, isPowerLost: boolean): void
  restartLater(node: AcceptorNode, delayMs: number): void
  lose(node: AcceptorNode): void
  pause(name: string, durationMs: number): void
  beginChange(newMembers: readonly string[], rng: Rng): void
}

const pick = <T>(items: readonly T[], rng: Rng): T => items[rng.below(items.length)] as T

export function strike(world: Strikable, { kind, durationMs }: PlannedFault, rng: Rng): void {
  const { network, counts, schedule } = world
  const members = allMembers(world.membership)
    .map((name) => world.nodes.get(name) as AcceptorNode)
    .filter(({ name }) => !world.isLost(name))
  const node = pick(members, rng)
  const proposer = pick(world.proposers, rng)
  const everyName = [...world.nodes.keys(), ...world.proposers.map(({ name }) => name)]
  switch (kind) {
    case 'partition': {
      // One alone, or two halves.
      const side = rng.below(2) === 0 ? [pick(everyName, rng)] : everyName.filter(() => rng.below(2) === 0)
      for (const from of side) {
        for (const to of everyName.filter((name) => !side.includes(name))) {
          network.block(from, to, durationMs)
          network.block(to, from, durationMs)
        }
      }
      return counts.fault(kind)
    }
    case 'one-way partition': {
      const from = pick(everyName, rng)
      for (const to of everyName) if (to !== from && rng.below(3) > 0) network.block(from, to, durationMs)
      return counts.fault(kind)
    }
    case 'flapping link': {
      const flap = (count: number): void => {
        network.block(proposer.name, node.name, 10 + rng.below(40))
        network.block(node.name, proposer.name, 10 + rng.below(40))
        if (count > 0) schedule.at(20 + rng.below(80), () => flap(count - 1))
      }
      flap(3 + rng.below(6))
      return counts.fault(kind)
    }
    case 'slow link':
      network.slow(proposer.name, node.name, durationMs)
      network.slow(node.name, proposer.name, durationMs)
      return counts.fault(kind)
    case 'process killed':
    case 'power lost':
      if (!node.isUp) return
      counts.fault(kind)
      world.kill(node, kind === 'power lost')
      return world.restartLater(node, rng.below(200))
    case 'power lost everywhere':
      counts.fault(kind)
      for (const each of world.nodes.values()) {
        world.kill(each, true)
        world.restartLater(each, rng.below(150))
      }
      return
    case 'crash between effects':
      // Counted when it strikes.
      node.armed.crashAfterEffects = 1 + rng.below(12)
      node.armed.isPowerLost = rng.below(3) > 0
      return
    case 'process paused':
      counts.fault(kind)
      return world.pause(node.name, durationMs)
    case 'sync failed':
      node.armed.failSyncAfter = 1 + rng.below(8)
      return
    case 'bit flip on read':
      node.armed.flipReadAfter = 1 + rng.below(6)
      // A start reads the control file and the end of the log.
      if (rng.below(2) === 0) {
        world.kill(node, rng.below(2) === 0)
        world.restartLater(node, rng.below(60))
      }
      return
    case 'disk full':
      node.armed.fullUntilMs = schedule.nowMs + durationMs / 2
      return
    case 'slow disk':
      node.armed.slowUntilMs = schedule.nowMs + durationMs
      return
    case 'disk lost for good':
      // One at a time: two of three are beyond what any quorum survives.
      if (allMembers(world.membership).some((name) => world.isLost(name))) return
      counts.fault(kind)
      world.lose(node)
      return changeMembers(world, node, rng)
    case 'proposer killed':
    case 'proposer restarted':
      counts.fault(kind)
      return proposer.restart(kind === 'proposer killed')
    case 'proposer misled':
      return mislead(world, node, proposer)
    case 'membership change':
      counts.fault(kind)
      return changeMembers(
        world,
        pick(
          world.membership.members.map((name) => world.nodes.get(name) as AcceptorNode),
          rng,
        ),
        rng,
      )
    default:
      throw new Error(`fault "${kind}" is part of the weather and is not planned`)
  }
}

/** Replaces a member; now and then more of them at once. */
function changeMembers(world: Strikable, leaving: AcceptorNode, rng: Rng): void {
  const { members } = world.membership
  const lost = members.find((name) => world.isLost(name))
  const spares = [...world.nodes.keys()].filter((name) => !members.includes(name) && !world.isLost(name))
  if (spares.length === 0) return
  const newcomers = spares.filter((_, index) => index === 0 || rng.below(3) === 0)
  const leavers = [
    lost ?? leaving.name,
    ...members.filter((name) => name !== (lost ?? leaving.name) && rng.below(3) === 0),
  ]
  const stay = members.filter((name) => !leavers.slice(0, newcomers.length).includes(name))
  world.beginChange([...stay, ...newcomers], rng)
}

/** A proposer whose notion of the log is wrong wins a vote and asks for a cut below what is committed: refused. */
function mislead(world: Strikable, node: AcceptorNode, { name }: ProposerNode): void {
  const status = node.status()
  const { startLsn } = world.format
  if (status === undefined || status.commitLsn === startLsn) return
  const { membershipGeneration } = status
  const term = status.term + 1
  const session = {
    nodeId: name,
    deliver: () => undefined,
    close: () => world.counts.fault('proposer misled'),
  }
  const history = [
    { term: 0, startLsn },
    { term, startLsn },
  ]
  node.handle(session, { kind: 'vote', membershipGeneration, message: { term } })
  node.handle(session, {
    kind: 'elected',
    membershipGeneration,
    message: { term, startStreamingLsn: startLsn, history, election: 'rebuild' },
  })
}
