/** The thread that merges layers: files in, the bytes of one file out. */
import { Transferred, realDisk, serveJobs } from '@understory/env'
import type { Disk, JobHandlers } from '@understory/env'
import { BlockCache, mergeLayers, openLayer } from '@understory/storage'
import type { LayerSource } from '@understory/storage'
import type { MergeJobs } from './merge-protocol.ts'

/** A merge goes through its layers in order of the keys: a block is seldom asked for again. */
const CACHE_BYTES = 16 * 1024 * 1024

export const mergeHandlers: JobHandlers<MergeJobs> = {
  merge: async ({ files, ...request }) => {
    await using opened = new AsyncDisposableStack()
    const cache = new BlockCache(CACHE_BYTES)
    const layers = []
    for (const file of files)
      layers.push(await openLayer(await sourceOf(realDisk, opened, file), request.owner, cache))
    const { written, next } = await mergeLayers(layers, request)
    if (written === undefined) return { written, next }
    // A buffer that is moved must be the layer's alone.
    const bytes = Uint8Array.from(written.bytes)
    return new Transferred({ written: { ...written, bytes }, next }, [bytes.buffer])
  },
}

async function sourceOf(
  disk: Disk,
  opened: AsyncDisposableStack,
  { path, sizeBytes }: { readonly path: string; readonly sizeBytes: number },
): Promise<LayerSource> {
  const file = opened.use(await disk.open(path, 'read'))
  return { name: path, sizeBytes, read: (offset, lengthBytes) => file.read(offset, lengthBytes) }
}

serveJobs<MergeJobs>(mergeHandlers)
