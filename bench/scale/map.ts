/** A look-up in the map of a shard with many layers, of which none costs anything itself. */
import { LSN_MAX, LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import { LayerMap, META_IMAGE } from '@understory/storage'
import type { Key, Layer, ValueRef } from '@understory/storage'
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
const LOOK_UPS = 300_000
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
  lookUp(map, keys, LOOK_UPS / 10)
  const lookUpUs = lookUp(map, keys, LOOK_UPS)
  const startMs = performance.now()
  for (let i = 0; i < PUSHES; i++) map.push(new StubLayer())
  return { ...figures, lookUpUs, pushMs: (performance.now() - startMs) / PUSHES }
}

function lookUp(map: LayerMap, keys: readonly Key[], count: number): number {
  const startMs = performance.now()
  let found = 0
  for (let i = 0; i < count; i++) if (map.plan(keys[i % keys.length] as Key, LSN_MAX) !== undefined) found++
  if (found !== count) throw new Error(`only ${found} of ${count} pages were found`)
  return ((performance.now() - startMs) * 1000) / count
}
