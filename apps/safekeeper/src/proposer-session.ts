import type { FollowingEffect } from '@understory/consensus'

/** Where the acceptor's answers to one stream of a proposer go. */
export interface ProposerSession {
  readonly nodeId: string
  /** Brings what an elected proposer wrote, without being one: it takes the lead from nobody. */
  readonly isRecovery?: true
  deliver(effect: Exclude<FollowingEffect, { kind: 'flush' | 'committed' | 'refuse' }>): void
  close(error: unknown): void
}
