import type { FollowingEffect } from '../acceptor.ts'

/** The answers of an acceptor to a proposer. */
export type AcceptorAnswer = Exclude<FollowingEffect, { kind: 'flush' | 'committed' | 'refuse' }>

/** One stream of a proposer as the acceptor sees it: where its answers go. */
export interface ProposerSession {
  readonly nodeId: string
  /** Brings what an elected proposer wrote, without being one: it takes the lead from no session. */
  readonly isRecovery?: true
  deliver(answer: AcceptorAnswer): void
  close(error: unknown): void
}
