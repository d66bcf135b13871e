/**
 * Which term wrote which part of a log: pairs <term, first LSN of the term>, oldest first. The first entry is always
 * <0, first byte of the timeline>, so that any two histories of a timeline have a point in common.
 *
 * After Neon's safekeeper protocol and its TLA+ specification (ProposerAcceptorStatic.tla).
 */
import { minLsn } from '@understory/base'
import type { Lsn } from '@understory/base'

export interface TermStart {
  readonly term: number
  readonly startLsn: Lsn
}
export type TermHistory = readonly TermStart[]

export const initialHistory = (timelineStartLsn: Lsn): TermHistory => [
  { term: 0, startLsn: timelineStartLsn },
]

export function lastTermStart(history: TermHistory): TermStart {
  return history[history.length - 1] as TermStart
}

/**
 * The part that a log ending at `flushLsn` really has. A term that starts right at the end counts: an election alone
 * makes a log more advanced, as if it wrote a record of no length.
 */
export function historyUpTo(history: TermHistory, flushLsn: Lsn): TermHistory {
  return history.filter(({ startLsn }) => startLsn <= flushLsn)
}

/** Terms rise, positions never fall, and the first entry is the timeline's. */
export function isWellFormedHistory(history: TermHistory, timelineStartLsn: Lsn): boolean {
  if (history[0]?.term !== 0 || history[0].startLsn !== timelineStartLsn) return false
  return history.every((entry, index) => {
    const previous = history[index - 1]
    return previous === undefined || (previous.term < entry.term && previous.startLsn <= entry.startLsn)
  })
}

/** Orders logs: the later last term wins, then the longer log. */
export function compareLogs(a: LogEnd, b: LogEnd): number {
  return a.lastLogTerm - b.lastLogTerm || a.flushLsn - b.flushLsn
}
export interface LogEnd {
  readonly lastLogTerm: number
  readonly flushLsn: Lsn
}

/**
 * The end of what an acceptor's log has in common with the log of an elected proposer. `acceptor` is already cut with
 * `historyUpTo(…, flushLsn)`. What a common last term holds on the proposer's side is unbounded: its own term's log.
 */
export function highestCommonPoint(proposer: TermHistory, acceptor: TermHistory, flushLsn: Lsn): Lsn {
  let common = 0
  while (
    common + 1 < proposer.length &&
    common + 1 < acceptor.length &&
    (proposer[common + 1] as TermStart).term === (acceptor[common + 1] as TermStart).term
  ) {
    common++
  }
  const acceptorEnd = acceptor[common + 1]?.startLsn ?? flushLsn
  const proposerEnd = proposer[common + 1]?.startLsn ?? flushLsn
  return minLsn(acceptorEnd, proposerEnd)
}
