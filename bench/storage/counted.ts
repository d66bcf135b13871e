/** A disk and an object store that count what is written to them. */
import type { Disk } from '@understory/env'
import { realDisk } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'

export interface Written {
  bytes: number
  /** Of them, by the last part of the name: layers, and documents such as indexes. */
  layerBytes: number
}

export const nothingWritten = (): Written => ({ bytes: 0, layerBytes: 0 })

/** Everything but JSON documents is a layer. */
function note(written: Written, name: string, sizeBytes: number): void {
  written.bytes += sizeBytes
  if (!name.endsWith('.json')) written.layerBytes += sizeBytes
}

/** Files that are replaced as a whole: a pageserver writes no others. */
export const countedDisk = (written: Written): Disk => ({
  ...realDisk,
  open: (path, mode) => {
    if (mode !== 'read') throw new Error(`file "${path}" is opened for writing, which is not counted`)
    return realDisk.open(path, mode)
  },
  durableReplace: async (path, bytes) => {
    await realDisk.durableReplace(path, bytes)
    note(written, path, bytes.length)
  },
})

/** Also puts that met a conflict: they were sent. */
export function countedStore(store: ObjectStore, written: Written): ObjectStore {
  const count = (key: string, bytes: Uint8Array): void => note(written, key, bytes.length)
  return {
    description: store.description,
    get: (...args) => store.get(...args),
    getRange: (...args) => store.getRange(...args),
    head: (...args) => store.head(...args),
    list: (...args) => store.list(...args),
    delete: (...args) => store.delete(...args),
    put: (key, bytes, options) => {
      count(key, bytes)
      return store.put(key, bytes, options)
    },
    putIfAbsent: (key, bytes, options) => {
      count(key, bytes)
      return store.putIfAbsent(key, bytes, options)
    },
    putIfMatch: (key, etag, bytes, options) => {
      count(key, bytes)
      return store.putIfMatch(key, etag, bytes, options)
    },
    close: () => store.close(),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  }
}
