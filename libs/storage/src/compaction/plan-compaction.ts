/**
 * What of a shard's layers is to be merged next. Layers lie in levels, oldest first; of one level no two have a key
 * in common. Two rules:
 *
 *   neighbours  four levels of one size class, with smaller ones between them, become one of the next class: a read
 *               looks into a number of levels that grows with the logarithm of the bytes, and each byte is written as
 *               often
 *   bottom      levels wholly below the horizon, once they outweigh the oldest level, are merged into it: values that
 *               no read can ask for any more go
 *
 * A shard that is rolled back to an LSN loses every layer that reaches beyond it, and takes their WAL in again. For
 * its base (the oldest level, and layers of an import) there is no WAL: it is merged only with what lies below the
 * horizon, to which no shard is rolled back.
 */
import type { Lsn } from '@understory/base'

export interface Level {
  readonly sizeBytes: number
  /** The newest value of its layers, and of those that they were merged from. */
  readonly lsnMax: Lsn
  /** Whether a layer of it is of an import. */
  readonly isImported: boolean
}

/** Levels [from, to). */
export interface CompactionPlan {
  readonly from: number
  readonly to: number
}

/** Upper end of the smallest class; each class reaches four times as far as the one before. */
const SMALLEST_CLASS_BYTES = 1024 * 1024
const CLASS_RATIO = 4
const LEVELS_A_CLASS_MAX = 4
/** Below it a bottom is not worth a merge. */
const BOTTOM_GAIN_BYTES_MIN = 4 * 1024 * 1024

/** 0 for the smallest. */
function classOf({ sizeBytes }: Level): number {
  let number = 0
  for (let end = SMALLEST_CLASS_BYTES; sizeBytes >= end; end *= CLASS_RATIO) number++
  return number
}

/** Undefined where nothing is worth a merge. `levels`: oldest first. */
export function planCompaction(levels: readonly Level[], horizon: Lsn): CompactionPlan | undefined {
  return planNeighbours(levels, horizon) ?? planBottom(levels, horizon)
}

/** Of the smallest class that is full: fewer bytes are read and written, and reads gain as much. */
function planNeighbours(levels: readonly Level[], horizon: Lsn): CompactionPlan | undefined {
  const above = levels.findLastIndex(({ isImported }, i) => i === 0 || isImported)
  const classes = levels.map(classOf)
  const largest = Math.max(-1, ...classes)
  for (let number = 0; number <= largest; number++) {
    let count = 0
    let to = levels.length
    for (let from = levels.length - 1; from >= 0; from--) {
      const found = classes[from] as number
      if (found > number) {
        count = 0
        to = from
        continue
      }
      if (found < number) continue
      if (++count < LEVELS_A_CLASS_MAX) continue
      if (from > above || levels.slice(from, to).every(({ lsnMax }) => lsnMax <= horizon)) return { from, to }
      break
    }
  }
  return undefined
}

function planBottom(levels: readonly Level[], horizon: Lsn): CompactionPlan | undefined {
  const [bottom] = levels
  if (bottom === undefined || bottom.lsnMax > horizon) return undefined
  let to = 1
  let bytes = 0
  for (; to < levels.length && (levels[to] as Level).lsnMax <= horizon; to++)
    bytes += (levels[to] as Level).sizeBytes
  return bytes >= Math.max(bottom.sizeBytes, BOTTOM_GAIN_BYTES_MIN) ? { from: 0, to } : undefined
}
