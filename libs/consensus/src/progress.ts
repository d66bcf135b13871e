/** How far one acceptor has got under this proposer's term: what was sent to it, and what it has. */
import type { Lsn } from '@understory/base'

export interface Progress {
  /** Next byte to send. */
  readonly nextLsn: Lsn
  /** Durable there as part of this term's log; 0/0 until it said so. */
  readonly flushLsn: Lsn
  readonly commitSentLsn: Lsn
  /** Record ends that the last two appends to the buffer's end brought: what it is to report as flushed. */
  readonly awaitedLsns: readonly [older: Lsn, newer: Lsn]
  readonly inFlightBytes: number
  /** WAL for it is being read from another acceptor. */
  readonly isFetching: boolean
  /** From whom WAL was fetched for it last, and whose read failed last; '' = none. */
  readonly fetchedFrom: string
  readonly failedDonor: string
}

export const NO_PROGRESS: Progress = {
  nextLsn: 0 as Lsn,
  flushLsn: 0 as Lsn,
  commitSentLsn: 0 as Lsn,
  awaitedLsns: [0 as Lsn, 0 as Lsn],
  inFlightBytes: 0,
  isFetching: false,
  fetchedFrom: '',
  failedDonor: '',
}

/**
 * Whether less than a whole append may be sent: while `unansweredMax` of them are unanswered, what comes in the
 * meantime waits and goes as one.
 */
export function mayAppend({ awaitedLsns, flushLsn }: Progress, unansweredMax: 1 | 2): boolean {
  const [older, newer] = awaitedLsns
  return flushLsn >= (unansweredMax === 1 ? newer : older)
}

/**
 * WAL up to `endLsn` was sent with `commitLsn`; `bringsLsn` is a record end that it is to report as flushed, if any.
 */
export function noteSent(
  progress: { -readonly [K in keyof Progress]: Progress[K] },
  endLsn: Lsn,
  commitLsn: Lsn,
  bringsLsn: Lsn,
): void {
  progress.inFlightBytes += endLsn - progress.nextLsn
  progress.nextLsn = endLsn
  progress.commitSentLsn = commitLsn
  // The acceptor answers with a record end: an append that brings none is not waited for.
  const [, newer] = progress.awaitedLsns
  if (bringsLsn > newer) progress.awaitedLsns = [newer, bringsLsn]
}
