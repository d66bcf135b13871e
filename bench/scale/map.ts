/** A look-up in the map of a shard with many layers, of which none costs anything itself. */
import { LSN_MAX, LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import { LayerMap, META_IMAGE } from '@understory/storage'
import type { Key, Layer, ValueRef } from '@understory/storage'
import { median } from '../commit/report.ts'
import { Random } from '../workloads/random.ts'
import { syntheticKey } from './synthetic.ts'

export interface MapFigures {
  readonly layers: number
  readonly levels: number
  /** Microseconds of a plan. */
  readonly lookUpUs: number
  /** Milliseconds until one more layer is in the map. */
  readonly pushMs: number
}

const PAGES_A_LAYER = 16_384
const DELTA_LEVELS = 10
const BATCHES = 1_000
/** About a millisecond. */
const BATCH = 300
const PUSHES = 20

const NOTHING = new Uint8Array(0)

/** Has an image of every page of its range, or, without a range, nothing. */
class StubLayer implements Layer {
  readonly keyFirst: Key | undefined
  readonly keyLast: Key | undefined
  readonly lsnMin: Lsn = LSN_ZERO
  readonly lsnMax: Lsn = LSN_MAX
  readonly #image: ValueRef = {
    layer: this,
    lsn: LSN_ZERO,
    meta: META_IMAGE,
    blockIndex: 0,
    lengthBytes: 0,
    bytes: () => NOTHING,
    load: () => Promise.resolve(NOTHING),
  }

  constructor(first?: number) {
    if (first === undefined) return
    this.keyFirst = syntheticKey(first)
    this.keyLast = syntheticKey(first + PAGES_A_LAYER - 1)
  }
  gather(_key: Key, _at: Lsn, _floor: Lsn, found: ValueRef[]): boolean {
    if (this.keyFirst === undefined) return false
    found.push(this.#image)
    return true
  }
  newest(): ValueRef | undefined {
    return this.keyFirst === undefined ? undefined : this.#image
  }
  *runsWithin(): Generator<never, void, void> {
    yield* []
  }
}

/** One level of a base, and deltas on top, each of which is asked. */
export function measureMap(layersCount: number): MapFigures {
  const map = new LayerMap()
  const base = Array.from({ length: layersCount - DELTA_LEVELS }, (_, i) => new StubLayer(i * PAGES_A_LAYER))
  const first = new StubLayer()
  map.push(first)
  map.replace([first], base)
  for (let i = 0; i < DELTA_LEVELS; i++) map.push(new StubLayer())
  const figures = { layers: map.layers.length, levels: map.levels.length }
  const random = new Random(1)
  const keys = Array.from({ length: 4096 }, () =>
    syntheticKey(random.between(0, base.length * PAGES_A_LAYER - 1)),
  )
  lookUp(map, keys, BATCHES)
  const lookUpUs = lookUp(map, keys, BATCHES)
  const pushesMs = Array.from({ length: PUSHES }, () => {
    const startMs = performance.now()
    map.push(new StubLayer())
    return performance.now() - startMs
  })
  return { ...figures, lookUpUs, pushMs: median(pushesMs) }
}

/** The median over batches, which are short enough that few of them are interrupted. */
function lookUp(map: LayerMap, keys: readonly Key[], batches: number): number {
  const batchesUs: number[] = []
  for (let batch = 0; batch < batches; batch++) {
    const startMs = performance.now()
    let found = 0
    for (let i = 0; i < BATCH; i++) {
      const key = keys[(batch * BATCH + i) % keys.length] as Key
      if (map.plan(key, LSN_MAX) !== undefined) found++
    }
    batchesUs.push((performance.now() - startMs) * 1000)
    if (found !== BATCH) throw new Error(`only ${found} of ${BATCH} pages were found`)
  }
  return median(batchesUs) / BATCH
}
