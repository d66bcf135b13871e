/** A process that holds an acceptor, as the world sees it. One implementation is the real safekeeper's. */
import type { Lsn } from '@understory/base'
import type { AcceptorInput, MemberStatus } from '@understory/consensus'
import type { ProposerSession } from '@understory/consensus/driver'
import type { Rng } from '@understory/env'
import type { Counts } from './counts.ts'
import type { Schedule } from './schedule.ts'
import type { WalFormat } from './wal.ts'

/** Faults that wait for their moment within a node. */
export interface ArmedFaults {
  /** The process ends at this many effects from now: 1 is the next. */
  crashAfterEffects: number
  /** This many syncs from now fails. */
  failSyncAfter: number
  flipReadAfter: number
  fullUntilMs: number
  slowUntilMs: number
  /** With a crash goes the power: what was not synced may be lost or torn. */
  isPowerLost: boolean
}
export const noArmedFaults = (): ArmedFaults => ({
  crashAfterEffects: 0,
  failSyncAfter: 0,
  flipReadAfter: 0,
  fullUntilMs: 0,
  slowUntilMs: 0,
  isPowerLost: false,
})

export interface NodeHost {
  readonly schedule: Schedule
  readonly rng: Rng
  readonly counts: Counts
  readonly format: WalFormat
  readonly nodes: ReadonlyMap<string, AcceptorNode>
  say(what: () => string): void
  /** The process ended by itself or by an armed fault; it may be started again. */
  ended(node: AcceptorNode): void
  stepped(node: AcceptorNode): void
  /** It is about to take WAL of `term` from another node, which may cut its log. */
  recovers(node: AcceptorNode, term: number): void
}

export interface NodeStatus extends MemberStatus {
  readonly commitLsn: Lsn
  readonly text: string
}

export interface AcceptorNode {
  readonly name: string
  readonly armed: ArmedFaults
  /** The process lives and has opened the timeline. */
  readonly isUp: boolean
  /** It takes WAL from other nodes; false where a node never does. */
  readonly isCatchingUp: boolean
  start(): void
  /** SIGKILL, or the power goes. */
  kill(isPowerLost: boolean): void
  /** Takes the messages of one session in order. */
  handle(session: ProposerSession, input: AcceptorInput): void
  leave(session: ProposerSession): void
  /** As ReadWal with a term: a prefix of [startLsn, endLsn), or undefined when refused. */
  read(term: number, startLsn: Lsn, endLsn: Lsn, done: (wal: Uint8Array | undefined) => void): void
  /** Undefined while it is not up. */
  status(): NodeStatus | undefined
  /** The present contents of its files, synced or not. */
  peek(startLsn: Lsn, endLsn: Lsn): Uint8Array
  /** Whether the loss of power now would leave `wal` at `startLsn`. */
  isDurable(startLsn: Lsn, wal: Uint8Array): boolean
}

export type MakeNode = (name: string, host: NodeHost) => AcceptorNode
