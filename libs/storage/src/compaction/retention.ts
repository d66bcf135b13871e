/**
 * Which values of a key a merge of layers keeps: all above the horizon, and what a read at the horizon or at a retained
 * point (a branch point below it) is made of. Nothing is redone: a chain is kept from its base on.
 */
import type { Lsn } from '@understory/base'
import { KEY_BARRIER, KEY_CONTROL_FILE } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import { endsChain, isTombstone } from '../layer/value.ts'

export interface Retention {
  /** Ascending: LSNs below the horizon that stay readable, then the horizon, from which on every LSN does. */
  readonly points: readonly Lsn[]
  /** Whether the merge has the oldest layers of the shard: then nothing is older than what it sees. */
  readonly isBottom: boolean
}

/** The part of a value that decides. */
interface Versioned {
  readonly lsn: Lsn
  readonly meta: number
}

/**
 * The values to keep, of all that the merged layers have of `key`, oldest first. `floorAt`: LSN of the newest barrier at or
 * before a point that covers the key.
 */
export function retain<V extends Versioned>(
  key: Key,
  values: readonly V[],
  { points, isBottom }: Retention,
  floorAt: (point: Lsn) => Lsn,
): readonly V[] {
  // The settings of redo are asked for at the LSN of every record that is kept.
  if (key.keyClass === KEY_CONTROL_FILE) return values
  const oldest = points[0] as Lsn
  // Another barrier of the same key may cover fewer blocks: a newer one does not take the place of an older one. At the
  // bottom, values below one at or before the oldest point are gone, and with them what it is for.
  if (key.keyClass === KEY_BARRIER) return isBottom ? values.filter(({ lsn }) => lsn > oldest) : values
  const horizon = points.at(-1) as Lsn
  const isKept = values.map(({ lsn }) => lsn > horizon)
  for (const point of points) {
    const floor = floorAt(point)
    for (let i = values.length - 1; i >= 0; i--) {
      const { lsn, meta } = values[i] as V
      if (lsn > point) continue
      if (lsn < floor) break
      isKept[i] = true
      if (endsChain(meta)) break
    }
  }
  const kept = values.filter((_, i) => isKept[i])
  // With nothing below it, the end of a key says no more than its absence.
  const first = isBottom ? kept.findIndex(({ meta }) => !isTombstone(meta)) : 0
  return first === 0 ? kept : first < 0 ? [] : kept.slice(first)
}
