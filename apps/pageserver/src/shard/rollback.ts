/** The part of a shard that stays where WAL that it has ingested was discarded by a recovery. */
import { formatLsn, maxLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { LAYER_KIND_DELTA, historyUpTo } from '@understory/storage'
import type { IndexPart } from '@understory/storage'

export interface Rollback {
  /** End of the WAL that is kept: a record end. */
  readonly lsn: Lsn
  /** Indexes of older generations may list what was made of WAL beyond it. */
  readonly beforeGeneration: number
}

/**
 * The index without the layers that reach beyond `lsn`, nor any after the first of them. What those hold of WAL that is
 * kept is taken in again: ingest continues where the last delta layer that stays ends, which is a record end. Error:
 * refused `precondition` where the shard began later.
 */
export function rollBack(part: IndexPart, lsn: Lsn): IndexPart {
  if (part.startLsn > lsn || part.readableLsn > lsn) {
    const began = formatLsn(maxLsn(part.startLsn, part.readableLsn))
    throw fail('precondition', `shard ${part.owner.shard.number} begins at ${began}, after ${formatLsn(lsn)}`)
  }
  const first = part.layers.findIndex(({ lsnMax }) => lsnMax > lsn)
  if (first < 0)
    return part.consistentLsn <= lsn ? part : { ...part, ...historyBefore(part, lsn), consistentLsn: lsn }
  const layers = part.layers.slice(0, first)
  // From where the import began, though nothing can be read before `readableLsn`: its pages are right only with that
  // WAL.
  let consistentLsn = part.startLsn
  for (const { kind, lsnMax } of layers)
    if (kind === LAYER_KIND_DELTA) consistentLsn = maxLsn(consistentLsn, lsnMax)
  return { ...part, ...historyBefore(part, lsn), layers, consistentLsn }
}

const historyBefore = ({ history }: IndexPart, lsn: Lsn): Pick<IndexPart, 'history'> =>
  history === undefined ? {} : { history: historyUpTo(history, lsn) }
