/** Terms and membership generations count up one by one, and come from others. */
import { fail } from '@understory/base'
import type { AcceptorControl, AcceptorInput } from '@understory/consensus'

/** A term or a membership generation this much higher than ours was not counted up to. */
const DISTANCE_MAX = 2 ** 32

/** Taken, such a number would leave nothing to count on to. Errors: `bad_argument`. */
export function checkWithinBounds(what: string, value: number, known: number): void {
  if (value - known > DISTANCE_MAX) throw fail('bad_argument', `${what} ${value} is too far from ${known}`)
}

/** Of a proposer's message. Errors: `bad_argument`. */
export function checkTermBounds(input: AcceptorInput, { membershipGeneration, term }: AcceptorControl): void {
  if (input.kind === 'greeting')
    checkWithinBounds('membership generation', input.message.membershipGeneration, membershipGeneration)
  if (input.kind === 'vote' || input.kind === 'elected') checkWithinBounds('term', input.message.term, term)
}
