/** Merges layers into new ones, a part of the keys at a time: a job of some seconds that begins where the one before ended. */
import { KEY_CLASS_MAX, compareKeys } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import { Barriers } from '../layer/barriers.ts'
import { FileValue } from '../layer/file-runs.ts'
import type { LayerFile } from '../layer/layer-file.ts'
import { LAYER_KIND_DELTA } from '../layer/layer-format.ts'
import type { LayerOwner } from '../layer/layer-format.ts'
import { addBarriers, classRange } from '../layer/layer-map.ts'
import { LayerWriter } from '../layer/layer-writer.ts'
import type { WrittenLayer } from '../layer/layer-writer.ts'
import type { ValueRef } from '../layer/layer.ts'
import { ScanHeads } from '../layer/scan-heads.ts'
import type { ScanHead } from '../layer/scan-heads.ts'
import { META_IS_SHARED } from '../layer/value.ts'
import { retain } from './retention.ts'
import type { Retention } from './retention.ts'

export interface MergeRequest {
  readonly owner: LayerOwner
  readonly generation: number
  readonly retention: Retention
  /** Where to begin; undefined: with the first key. */
  readonly from: Key | undefined
  /** The layer ends at the first key after so many stored bytes. */
  readonly layerBytesMax: number
}

export interface MergedPart {
  /** Undefined where nothing of this part is kept. */
  readonly written: WrittenLayer | undefined
  /** Where the next part begins; undefined after the last. */
  readonly next: Key | undefined
}

/** `layers`: neighbours, oldest first. Errors: `bad_file` where one is damaged. */
export async function mergeLayers(layers: readonly LayerFile[], request: MergeRequest): Promise<MergedPart> {
  const { owner, generation, retention, layerBytesMax } = request
  const barriers = new Barriers()
  for (const layer of layers) await addBarriers(barriers, layer)
  const writer = new LayerWriter(owner, LAYER_KIND_DELTA, generation)
  const shared = new SharedBytes()
  const last = classRange(KEY_CLASS_MAX).last
  const heads = await headsFrom(layers, request.from ?? classRange(0).first, last)
  for (let head = heads.first; head !== undefined; head = heads.first) {
    const { key } = head
    if (writer.valueCount > 0 && writer.sizeBytes >= layerBytesMax)
      return { written: await writer.finish(), next: key }
    const values = await valuesOf(heads, key)
    const kept = retain(key, values, retention, (point) => barriers.newest(key, point))
    if (kept.length === 0) continue
    writer.addKey(key)
    for (const value of kept) {
      const bytes = value.bytes() ?? (await value.load())
      const full = writer.addValue(value.lsn, value.meta, value.blockIndex, bytes, shared.idOf(value))
      if (full !== undefined) await full
    }
  }
  return { written: writer.valueCount === 0 ? undefined : await writer.finish(), next: undefined }
}

async function headsFrom(layers: readonly LayerFile[], first: Key, last: Key): Promise<ScanHeads> {
  const heads = new ScanHeads()
  for (const [age, layer] of layers.entries()) {
    for (const runs of layer.runsWithin(first, last)) {
      const run = await runs.next()
      if (run !== undefined) heads.add({ age, runs, run, next: 0, key: run.keyAt(0) })
    }
  }
  return heads
}

/** All values of the key, oldest first; the heads move past it. */
async function valuesOf(heads: ScanHeads, key: Key): Promise<readonly ValueRef[]> {
  const byAge: { readonly age: number; readonly values: readonly ValueRef[] }[] = []
  let head: ScanHead | undefined = heads.first
  for (; head !== undefined && compareKeys(head.key, key) === 0; head = heads.first) {
    byAge.push({ age: head.age, values: [...head.run.valuesAt(head.next)] })
    const advanced = heads.advanceFirst()
    if (advanced !== undefined) await advanced
  }
  if (byAge.length === 1) return (byAge[0] as { values: readonly ValueRef[] }).values
  // Parts of a key in one layer came in order, and sorting keeps it.
  return byAge.sort((a, b) => a.age - b.age).flatMap(({ values }) => values)
}

/** Numbers for bytes that several values of one layer refer to, as `LayerWriter.addValue` takes them. */
class SharedBytes {
  readonly #ids = new Map<unknown, Map<number, number>>()
  #nextId = 0

  /** -1 where they are the value's alone. */
  idOf(value: ValueRef): number {
    if ((value.meta & META_IS_SHARED) === 0 || !(value instanceof FileValue)) return -1
    let ofLayer = this.#ids.get(value.layer)
    if (ofLayer === undefined) this.#ids.set(value.layer, (ofLayer = new Map<number, number>()))
    const { position } = value
    const known = ofLayer.get(position)
    if (known !== undefined) return known
    ofLayer.set(position, this.#nextId)
    return this.#nextId++
  }
}
