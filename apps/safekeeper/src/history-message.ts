/** Terms and term histories on the wire. */
import { lsnFromBigint, lsnToBigint, refuse } from '@understory/base'
import type { TermHistory } from '@understory/consensus'
import type { TermStart } from '@understory/rpc'

/** Terms are counted, not timed: they stay far below 2^53. */
export function readTerm(term: bigint): number {
  if (term > BigInt(Number.MAX_SAFE_INTEGER)) throw refuse('bad_argument', `term ${term} is out of range`)
  return Number(term)
}

/** A generation beyond that could be stored, and never be told again. */
export function readGeneration(generation: bigint): number {
  if (generation <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(generation)
  throw refuse('bad_argument', `membership generation ${generation} is out of range`)
}

export const readHistory = (history: readonly TermStart[]): TermHistory =>
  history.map(({ term, startLsn }) => ({ term: readTerm(term), startLsn: lsnFromBigint(startLsn) }))

export const writeHistory = (history: TermHistory): TermStart[] =>
  history.map(({ term, startLsn }) => ({ term: BigInt(term), startLsn: lsnToBigint(startLsn) }))
