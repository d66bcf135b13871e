/** Term histories on the wire. */
import { lsnFromBigint, lsnToBigint } from '@understory/base'
import type { TermHistory } from '@understory/consensus'
import type { TermStart } from '@understory/rpc'
import { readTerm } from './numbers.ts'

/** Errors: `bad_argument`, `bad_lsn`. */
export const readHistory = (history: readonly TermStart[]): TermHistory =>
  history.map(({ term, startLsn }) => ({ term: readTerm(term), startLsn: lsnFromBigint(startLsn) }))

export const writeHistory = (history: TermHistory): TermStart[] =>
  history.map(({ term, startLsn }) => ({ term: BigInt(term), startLsn: lsnToBigint(startLsn) }))
