/** Jobs of the thread that merges layers. */
import type { Key, LayerOwner, Retention, WrittenLayer } from '@understory/storage'

export interface MergeJobs {
  readonly merge: {
    readonly request: {
      readonly owner: LayerOwner
      readonly generation: number
      /** Layer files, oldest first. */
      readonly files: readonly { readonly path: string; readonly sizeBytes: number }[]
      readonly retention: Retention
      /** Where to begin; undefined: with the first key. */
      readonly from: Key | undefined
      readonly layerBytesMax: number
    }
    readonly response: {
      /** Undefined where nothing of this part is kept. */
      readonly written:
        | (Omit<WrittenLayer, 'bytes'> & { readonly bytes: Uint8Array<ArrayBuffer> })
        | undefined
      /** Where the next part begins; undefined after the last. */
      readonly next: Key | undefined
    }
  }
}
