/**
 * The values of a base backup become layers, as they come; what makes the import visible is done by the shard
 * (shard.ts).
 */
import { LSN_ZERO, formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { encodeTrackerState, parseControlFile, trackerStateOf } from '@understory/postgres/cluster'
import type { ControlFileValues } from '@understory/postgres/cluster'
import { PAGE_SIZE } from '@understory/postgres/page'
import {
  CHECKPOINT_STATE_KEY,
  CONTROL_FILE_KEY,
  KEY_BARRIER,
  KEY_CONTROL_FILE,
  KeyTable,
  META_IMAGE,
  OpenLayer,
  formatKey,
  isPageKey,
  shardOfKey,
} from '@understory/storage'
import type { ImportValue, LayerFile, LayerOwner } from '@understory/storage'
import type { LayerStore } from '../layers/layer-store.ts'
import { untilAborted } from '../layers/until-aborted.ts'

export interface ImportOptions {
  readonly owner: LayerOwner
  readonly layers: LayerStore
  /** Of one layer. */
  readonly layerBytesMax: number
  /** Fires when the shard is detached. */
  readonly stop: AbortSignal
  readonly startLsn: Lsn
  /** Values of import batches. */
  readonly values: AsyncIterable<Iterable<ImportValue>>
  /** End of the backup, once `values` are through; undefined where the finish message is missing. */
  readonly finish: () => Lsn | undefined
}

export interface GatheredImport {
  /** Durable on the local disk; the last of them makes the index begin at the start LSN. */
  readonly files: readonly LayerFile[]
  readonly control: ControlFileValues
  readonly endLsn: Lsn
  readonly valuesCount: number
}

/**
 * Errors: `bad_argument` where the values are not an import of this shard; `unavailable` where the shard is detached.
 */
export async function gatherImport(options: ImportOptions): Promise<GatheredImport> {
  const { owner, layers, layerBytesMax, stop, startLsn, values, finish } = options
  if (startLsn === LSN_ZERO) throw fail('bad_argument', 'import has no start lsn')
  // What an import left that did not end.
  await layers.forgetLayers()
  const files: LayerFile[] = []
  let layer = new OpenLayer(new KeyTable())
  let valuesCount = 0
  let controlFile: Uint8Array | undefined
  let hasTracker = false
  for await (const batch of untilAborted(values, stop, () => detachedError(owner))) {
    for (const { key, bytes } of batch) {
      checkValue(owner, key, bytes)
      if (key.keyClass === KEY_CONTROL_FILE) controlFile = Uint8Array.from(bytes)
      hasTracker ||= key.keyClass === CHECKPOINT_STATE_KEY.keyClass
      layer.putBytes(layer.keys.intern(key), startLsn, META_IMAGE, bytes)
      valuesCount++
    }
    if (layer.sizeBytes < layerBytesMax) continue
    files.push(await write(layers, layer, undefined))
    layer = new OpenLayer(new KeyTable())
  }
  const endLsn = checkEnd(startLsn, finish())
  if (controlFile === undefined) {
    throw fail('bad_argument', 'import has no control file', { hint: 'Send it to every shard.' })
  }
  const control = parseControlFile(controlFile)
  if (owner.shard.number === 0 && !hasTracker) {
    const state = encodeTrackerState(trackerStateOf(control))
    layer.putBytes(layer.keys.intern(CHECKPOINT_STATE_KEY), startLsn, META_IMAGE, state)
  }
  files.push(await write(layers, layer, startLsn))
  return { files, control, endLsn, valuesCount }
}

function write(layers: LayerStore, layer: OpenLayer, startLsn: Lsn | undefined): Promise<LayerFile> {
  layer.freeze()
  return layers.writeImported(layer, startLsn)
}

function checkEnd(startLsn: Lsn, endLsn: Lsn | undefined): Lsn {
  if (endLsn === undefined) throw fail('bad_argument', 'import ended before its finish message')
  if (endLsn >= startLsn) return endLsn
  throw fail('bad_argument', `import ends at ${formatLsn(endLsn)}, before its start ${formatLsn(startLsn)}`)
}

function checkValue({ shard }: LayerOwner, key: ImportValue['key'], bytes: Uint8Array): void {
  const isControlFile = key.keyClass === KEY_CONTROL_FILE
  if (key.keyClass === KEY_BARRIER || (isControlFile && key.block !== CONTROL_FILE_KEY.block)) {
    throw fail('bad_argument', `${formatKey(key)} cannot be imported`)
  }
  const owner = shardOfKey(shard, key)
  if (!isControlFile && owner !== shard.number) {
    throw fail('bad_argument', `${formatKey(key)} belongs to shard ${owner}, not to ${shard.number}`)
  }
  if (isPageKey(key) && bytes.length !== PAGE_SIZE) {
    throw fail('bad_argument', `${formatKey(key)} has ${bytes.length} bytes, not ${PAGE_SIZE}`)
  }
}

const detachedError = ({ shard }: LayerOwner): Error =>
  fail('unavailable', `shard ${shard.number} was detached during its import`, {
    hint: 'The import begins again where the shard is attached.',
  })
