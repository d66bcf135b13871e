/** How many layers the read of a page has to do with. */
import { LSN_MAX } from '@understory/base'
import type { Key } from '@understory/storage'
import type { ShardReader } from '../../apps/pageserver/src/state/shard-reader.ts'
import { quantile } from './report.ts'

export interface LayersTouched {
  readonly pages: number
  /** Layers that have a value of the page which the read needs. */
  readonly withValues: { readonly p50: number; readonly p99: number; readonly max: number }
  /** Layers that are asked, be it their filter alone: one of each level down to the end of the chain. */
  readonly asked: { readonly p50: number; readonly p99: number; readonly max: number }
}

const summaryOf = (counts: readonly number[]): LayersTouched['asked'] => ({
  p50: quantile(counts, 0.5),
  p99: quantile(counts, 0.99),
  max: quantile(counts, 1),
})

/** Of reads at the newest LSN. Keys that are not there are left out. */
export async function layersTouched({ map }: ShardReader, keys: Iterable<Key>): Promise<LayersTouched> {
  const withValues: number[] = []
  const asked: number[] = []
  for (const key of keys) {
    const plan = await map.plan(key, LSN_MAX)
    if (plan === undefined) continue
    const values = plan.base === undefined ? plan.records : [plan.base, ...plan.records]
    const layers = new Set(values.map(({ layer }) => layer))
    const oldest = map.levels.findIndex((level) => level.some((layer) => layers.has(layer)))
    withValues.push(layers.size)
    asked.push(map.levels.length - oldest)
  }
  return { pages: asked.length, withValues: summaryOf(withValues), asked: summaryOf(asked) }
}
