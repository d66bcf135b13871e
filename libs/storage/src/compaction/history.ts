/**
 * Which WAL was there when, so that history ends at an age. Time is that during which the shard ran: a wrong clock of
 * the machine, or days without the process, end nothing early.
 */
import { LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'

export interface HistorySample {
  /** Ingested at that time, so that it was committed before. */
  readonly lsn: Lsn
  /** Milliseconds on the clock of `History`. */
  readonly atMs: number
}

export interface History {
  /** Milliseconds that the shard has run, as far as is known. */
  readonly clockMs: number
  /** Oldest first, of rising LSNs. */
  readonly samples: readonly HistorySample[]
}

export const NO_HISTORY: History = { clockMs: 0, samples: [] }

/** Samples within a window: history ends at most this part of it later than it may. */
const SAMPLES_A_WINDOW = 64

/** After `elapsedMs` more everything before `lsn` is ingested. Itself where there is nothing worth a note. */
export function noteHistory(history: History, lsn: Lsn, elapsedMs: number, windowMs: number): History {
  const clockMs = history.clockMs + elapsedMs
  const { samples } = history
  const newest = samples.at(-1)
  const isDue = newest === undefined || clockMs - newest.atMs >= windowMs / SAMPLES_A_WINDOW
  if (!isDue || lsn <= (newest?.lsn ?? LSN_ZERO)) return history
  // Of those that are old enough only the newest counts, now and later.
  const old = samples.findLastIndex(({ atMs }) => clockMs - atMs >= windowMs)
  return { clockMs, samples: [...samples.slice(Math.max(0, old)), { lsn, atMs: clockMs }] }
}

/** The newest LSN that is known to be at least `windowMs` old; 0 where none is. */
export function horizonOf({ clockMs, samples }: History, elapsedMs: number, windowMs: number): Lsn {
  return samples.findLast(({ atMs }) => clockMs + elapsedMs - atMs >= windowMs)?.lsn ?? LSN_ZERO
}

/** Without the samples of WAL beyond `lsn`, which was discarded. */
export const historyUpTo = ({ clockMs, samples }: History, lsn: Lsn): History => ({
  clockMs,
  samples: samples.filter((sample) => sample.lsn <= lsn),
})
