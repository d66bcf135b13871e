/**
 * One schedule: acceptors, proposers, a membership document, a network and disks that fail. First faults, in which
 * nothing may ever be unsafe; then calm, in which a quorum must get on. The same options give the same run.
 */
import { abortChange, allMembers, finishChange, startChange } from '@understory/consensus'
import type { MemberStatus, Membership } from '@understory/consensus'
import { seededRng } from '@understory/env'
import type { Rng } from '@understory/env'
import type { AcceptorNode, MakeNode, NodeHost } from './acceptor-node.ts'
import { Checks, Violation } from './checks.ts'
import { Counts } from './counts.ts'
import { planFaults } from './faults.ts'
import type { PlannedFault } from './faults.ts'
import { strike } from './strike.ts'
import type { Strikable } from './strike.ts'
import { Network } from './network.ts'
import { ProposerNode } from './proposer-node.ts'
import { Schedule } from './schedule.ts'
import type { WalFormat } from './wal.ts'

export interface WorldOptions {
  readonly seed: number
  readonly makeNode: MakeNode
  readonly format: WalFormat
  readonly faultsMs: number
  readonly recordBytesMax: number
  /** Only these of the planned faults; all of them where it is left out. */
  readonly only?: readonly number[] | undefined
  /** Without what may happen to any message at any time. */
  readonly isFairWeather?: boolean
  readonly onTrace?: ((line: string) => void) | undefined
}

const CALM_MS = 30_000

export class World implements Strikable, NodeHost {
  readonly schedule = new Schedule()
  readonly counts = new Counts()
  readonly rng: Rng
  readonly format: WalFormat
  readonly checks: Checks
  readonly network: Network
  readonly nodes = new Map<string, AcceptorNode>()
  readonly proposers: ProposerNode[] = []
  readonly recordBytesMax: number
  readonly planned: readonly PlannedFault[]
  membership: Membership
  isCalm = false
  readonly #options: WorldOptions
  readonly #lost = new Set<string>()
  readonly #pausedUntilMs = new Map<string, number>()
  /** By generation. */
  readonly #memberships: Membership[] = []

  constructor(options: WorldOptions) {
    const { seed, format, makeNode, faultsMs, only, isFairWeather = false } = options
    this.#options = options
    this.rng = seededRng(seed * 4)
    this.format = format
    this.recordBytesMax = options.recordBytesMax
    this.checks = new Checks(format)
    this.planned = planFaults(seed, faultsMs).filter(
      ({ index }) => only === undefined || only.includes(index),
    )
    const { rng } = this
    const isOrdered = rng.below(2) === 0
    const [loss, repeat, broken] = [rng.below(8) / 100, rng.below(10) / 100, rng.below(6) / 1000]
    this.network = new Network(this.schedule, rng, this.counts, {
      isOrdered,
      lossChance: isFairWeather ? 0 : loss,
      repeatChance: isFairWeather ? 0 : repeat,
      breakChance: isFairWeather ? 0 : broken,
      delayMsMax: 2 + rng.below(10),
    })
    const size = rng.below(6) === 0 ? 5 : 3
    const names = Array.from({ length: size + 2 }, (_, index) => `s${index + 1}`)
    this.membership = { generation: 0, members: names.slice(0, size) }
    this.#memberships.push(this.membership)
    for (const name of names) this.nodes.set(name, makeNode(name, this))
    for (let n = 0; n < 2 + rng.below(2); n++) this.proposers.push(new ProposerNode(`p${n + 1}`, this))
  }

  // The part of the world that nodes and proposers see.

  readonly say = (what: () => string): void => {
    this.#options.onTrace?.(`${this.schedule.nowMs.toFixed(0).padStart(6)} ms  ${what()}`)
  }

  isLost(name: string): boolean {
    return this.#lost.has(name)
  }

  isPausedUntilMs(name: string): number {
    return this.#pausedUntilMs.get(name) ?? 0
  }

  membershipOf(generation: number): Membership | undefined {
    return this.isCalm || this.rng.below(4) > 0 ? this.#memberships[generation] : undefined
  }

  recovers(node: AcceptorNode, term: number): void {
    this.checks.recovers(node.name, term)
  }

  stepped(node: AcceptorNode): void {
    this.checks.stepped(node)
  }

  ended(node: AcceptorNode): void {
    this.say(() => `${node.name} ended`)
    this.network.breakAllOf(node.name)
    this.restartLater(node, 5 + this.rng.below(60))
  }

  // The effects of faults.

  restartLater(node: AcceptorNode, delayMs: number): void {
    this.schedule.at(delayMs, () => {
      if (node.isUp || this.isLost(node.name)) return
      node.start()
      this.say(() => `${node.name} started: ${node.status()?.text ?? 'opening'}`)
    })
  }

  kill(node: AcceptorNode, isPowerLost: boolean): void {
    if (this.isLost(node.name)) return
    node.kill(isPowerLost)
    this.network.breakAllOf(node.name)
  }

  lose(node: AcceptorNode): void {
    this.kill(node, true)
    this.#lost.add(node.name)
  }

  pause(name: string, durationMs: number): void {
    this.#pausedUntilMs.set(name, this.schedule.nowMs + durationMs)
  }

  /** Begins a change of membership and drives it until it is finished or cancelled. */
  beginChange(newMembers: readonly string[], rng: Rng): void {
    if (this.membership.newMembers !== undefined) return
    this.#setMembership(startChange(this.membership, newMembers))
    this.counts.transition('membership: change begun')
    this.#driveChange(this.membership.generation, new Map(), rng)
  }

  #setMembership(membership: Membership): void {
    this.membership = membership
    this.#memberships[membership.generation] = membership
    const { generation, members, newMembers } = membership
    this.say(
      () =>
        `membership ${generation}: ${members.join(' ')}${newMembers ? ` -> ${newMembers.join(' ')}` : ''}`,
    )
    for (const proposer of this.proposers) {
      if (this.rng.below(3) === 0) continue
      this.schedule.at(5 + this.rng.below(100), () => {
        if (this.membership.generation === generation) proposer.announceMembership(membership)
      })
    }
  }

  #driveChange(generation: number, statuses: Map<string, MemberStatus>, rng: Rng): void {
    this.schedule.at(10 + rng.below(50), () => {
      if (this.membership.generation !== generation) return
      if (!this.isCalm && rng.below(60) === 0) {
        this.counts.transition('membership: change aborted')
        this.#setMembership(abortChange(this.membership))
        return
      }
      for (const name of allMembers(this.membership)) {
        const node = this.nodes.get(name) as AcceptorNode
        // What it said before it was lost, such as a term that no other node will ever see, is not waited for.
        if (this.isCalm && !node.isUp) statuses.delete(name)
        if (!node.isUp || (!this.isCalm && rng.below(4) === 0)) continue
        const session = {
          nodeId: 'membership',
          deliver: () => {
            const status = node.status()
            if (status !== undefined) statuses.set(name, status)
          },
          close: () => undefined,
        }
        this.schedule.at(1 + rng.below(20), () => {
          node.handle(session, { kind: 'greeting', message: { membershipGeneration: generation } })
        })
      }
      const finished = finishChange(this.membership, (name) => statuses.get(name))
      if (finished === undefined) return this.#driveChange(generation, statuses, rng)
      this.counts.transition('membership: change finished')
      this.#setMembership(finished)
    })
  }

  // The run.

  async run(): Promise<void> {
    try {
      await this.#run()
    } finally {
      for (const node of this.nodes.values()) node.kill(false)
    }
  }

  async #run(): Promise<void> {
    const { faultsMs } = this.#options
    for (const node of this.nodes.values()) node.start()
    for (const proposer of this.proposers) this.schedule.at(this.rng.below(50), () => proposer.restart(true))
    for (const fault of this.planned) {
      this.schedule.at(fault.atMs, () => {
        this.say(() => `fault ${fault.index}: ${fault.kind}, ${fault.durationMs} ms`)
        strike(this, fault, seededRng(fault.seed))
      })
    }
    await this.schedule.run(faultsMs)
    await this.#calmDown()
    const before = this.checks.committed.endLsn
    const [only] = this.proposers
    for (const proposer of this.proposers) proposer.stop()
    only?.restart(this.rng.below(2) === 0)
    const isDone = (): boolean =>
      this.checks.committed.endLsn > before &&
      this.membership.newMembers === undefined &&
      this.membership.members.every(
        (name) => this.isLost(name) || (this.nodes.get(name)?.status()?.commitLsn ?? 0) > before,
      ) &&
      [...this.nodes.values()].every(({ isCatchingUp }) => !isCatchingUp)
    if (await this.schedule.run(this.schedule.nowMs + CALM_MS, isDone)) {
      for (const node of this.nodes.values()) this.checks.stepped(node, true)
      return
    }
    const states = [...this.nodes.values()].map(
      (node) =>
        `${node.name} ${node.status()?.text ?? 'is not up'}${node.isCatchingUp ? ', catching up' : ''}`,
    )
    throw new Violation(
      `no progress beyond ${before} in ${CALM_MS} ms of calm; membership ${JSON.stringify(this.membership)}; ${states.join('; ')}; ${this.proposers[0]?.phase}`,
    )
  }

  async #calmDown(): Promise<void> {
    this.isCalm = true
    this.network.heal()
    this.#pausedUntilMs.clear()
    for (const node of this.nodes.values()) {
      Object.assign(node.armed, {
        crashAfterEffects: 0,
        failSyncAfter: 0,
        flipReadAfter: 0,
        fullUntilMs: 0,
        slowUntilMs: 0,
      })
      this.kill(node, true)
      if (!this.isLost(node.name)) node.start()
    }
    this.say(() => 'calm')
    await this.schedule.run(this.schedule.nowMs + 20)
  }
}
