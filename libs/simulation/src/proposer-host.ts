import type { Membership } from '@understory/consensus'
import type { Rng } from '@understory/env'
import type { AcceptorNode } from './acceptor-node.ts'
import type { Checks } from './checks.ts'
import type { Counts } from './counts.ts'
import type { Network } from './network.ts'
import type { Schedule } from './schedule.ts'
import type { WalFormat } from './wal.ts'

/** The part of the world that a proposer sees. */
export interface ProposerHost {
  readonly schedule: Schedule
  readonly rng: Rng
  readonly counts: Counts
  readonly checks: Checks
  readonly network: Network
  readonly format: WalFormat
  readonly nodes: ReadonlyMap<string, AcceptorNode>
  readonly isCalm: boolean
  /** The membership document as of now. */
  readonly membership: Membership
  readonly recordBytesMax: number
  /** The members of a generation, where an acceptor that knows the generation knows them too. */
  membershipOf(generation: number): Membership | undefined
  isPausedUntilMs(name: string): number
  isLost(name: string): boolean
  readonly say: (what: () => string) => void
}
