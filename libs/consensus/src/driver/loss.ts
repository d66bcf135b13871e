/** How a candidacy or a lead ends. */
import { UnderstoryError, fail } from '@understory/base'
import type { ErrorCode } from '@understory/base'
import type { KnownMembership } from './membership.ts'

export type Loss =
  | { readonly kind: 'fenced'; readonly term: number }
  /** Another compute was elected while this one did not look. */
  | { readonly kind: 'superseded'; readonly term: number }
  /** The safekeepers changed; `membership` where one of them reported the new ones. */
  | { readonly kind: 'staleMembership'; readonly membership?: KnownMembership }
  | { readonly kind: 'noContact' }
  | { readonly kind: 'closed' }

/** The lead is lost. */
export class LeadLostError extends UnderstoryError {
  readonly loss: Loss

  constructor(code: ErrorCode, message: string, loss: Loss) {
    super(code, message)
    this.loss = loss
  }
}

/** Whether another compute has the timeline for good: this one is to end. */
export const isFinal = (loss: Loss): boolean => loss.kind === 'fenced' || loss.kind === 'superseded'

export function lossError(loss: Loss): Error {
  switch (loss.kind) {
    case 'fenced':
      return new LeadLostError('stale', `another compute has the lead with term ${loss.term}`, loss)
    case 'superseded':
      return new LeadLostError('stale', `another compute was elected with term ${loss.term} since then`, loss)
    case 'staleMembership':
      return new LeadLostError('stale', 'the safekeepers of this timeline have changed', loss)
    case 'noContact':
      return new LeadLostError('unavailable', 'a majority of the safekeepers cannot be reached', loss)
    case 'closed':
      return new LeadLostError('cancelled', 'the lead was released', loss)
  }
}

/**
 * A candidate that was overtaken, or whose own vote's answer was lost, may try again; only a leader is fenced for good.
 */
export function electionError(loss: Loss): Error {
  if (loss.kind !== 'fenced') return lossError(loss)
  return fail('conflict', `the election was lost to term ${loss.term}`)
}
