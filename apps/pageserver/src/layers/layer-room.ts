/**
 * Owns the room that layers take of a disk. The disk is a cache of the object store: where a layer needs room, the
 * files of layers that were not read for longest and are in the store are removed, and read from there (cached-layer.ts).
 * The last of the room is kept for the documents that say which layers there are: a disk that layers have filled still
 * takes a new index, a generation and settings. One for all shards of a data folder, since they write at the same time.
 */
import { Mailbox } from '@understory/actor'
import { fail } from '@understory/base'
import type { Clock, Disk } from '@understory/env'

const MIB = 1024 * 1024
/** An index has some 200 bytes a layer; each is written beside the one that it replaces. */
const RESERVED_BYTES = 16 * MIB
/** What may wait leaves more, for the layers of ingest, which may not. */
const RESERVED_FOR_INGEST_BYTES = 128 * MIB
/** A file that was not read for so long makes room for one that is read. */
const COLD_MS = 60_000

/** A layer that is written: of ingest, of a merge or for one, or a copy of an object that is read often. */
export type LayerPurpose = 'ingest' | 'merge' | 'copy'

/** The file of a layer. */
export interface EvictableFile {
  readonly sizeBytes: number
  /** When it was last read. */
  readonly usedAtMs: number
  /** Whether the object store has the layer and nothing here needs the file. */
  readonly mayBeEvicted: boolean
  /** Removes the file. */
  evict(): Promise<void>
}

export interface LayerRoomParts {
  readonly disk: Disk
  readonly clock: Clock
  /** Layers may take more only where the store does not have them yet; undefined: the whole disk. */
  readonly filesBytesMax: number | undefined
}

export class LayerRoom {
  readonly #parts: LayerRoomParts
  readonly #files = new Set<EvictableFile>()
  #filesBytes = 0
  /** Of layers that are being written. */
  #claimedBytes = 0
  /** One caller makes room at a time: two would remove twice what they need. */
  readonly #evictions = new Mailbox({ name: 'evictions' })

  constructor(parts: LayerRoomParts) {
    this.#parts = parts
  }

  /** Of the layer files that are here. */
  get filesBytes(): number {
    return this.#filesBytes
  }
  add(file: EvictableFile): void {
    if (this.#files.has(file)) return
    this.#files.add(file)
    this.#filesBytes += file.sizeBytes
  }
  remove(file: EvictableFile): void {
    if (this.#files.delete(file)) this.#filesBytes -= file.sizeBytes
  }

  /**
   * Does `write`, which puts so many bytes into the folder, once there is room. Errors: `disk_full`, before anything is
   * written.
   */
  async claim<T>(
    folder: string,
    sizeBytes: number,
    purpose: LayerPurpose,
    write: () => Promise<T>,
  ): Promise<T> {
    await this.#evictions.run(() => this.#makeRoom(folder, sizeBytes, purpose))
    try {
      return await write()
    } finally {
      this.#claimedBytes -= sizeBytes
    }
  }

  /** Evicts what is over the limit: layers that the store did not have when they were written. Errors: of the disk. */
  async trim(): Promise<void> {
    const { filesBytesMax = Infinity } = this.#parts
    await this.#evictions.run(async () => {
      while (this.#filesBytes > filesBytesMax) {
        const coldest = this.#coldest(Infinity)
        if (coldest === undefined) return
        await coldest.evict()
      }
    })
  }

  /** Claims the bytes once they are there. Only for ingest anything is evicted where that will not be enough. */
  async #makeRoom(folder: string, sizeBytes: number, purpose: LayerPurpose): Promise<void> {
    const { disk, clock, filesBytesMax = Infinity } = this.#parts
    const keepFreeBytes = purpose === 'ingest' ? RESERVED_BYTES : RESERVED_FOR_INGEST_BYTES
    const usedBeforeMs = purpose === 'copy' ? clock.nowMs() - COLD_MS : Infinity
    for (;;) {
      const freeBytes = await disk.freeBytes(folder)
      const claimedBytes = this.#claimedBytes + sizeBytes
      const lackedBytes = claimedBytes + keepFreeBytes - freeBytes
      const overBytes = this.#filesBytes + claimedBytes - filesBytesMax
      // What the store does not have yet must be written all the same.
      const neededBytes = purpose === 'copy' ? Math.max(lackedBytes, overBytes) : lackedBytes
      const isFutile = purpose !== 'ingest' && neededBytes > this.#evictableBytes(usedBeforeMs)
      const coldest =
        (lackedBytes > 0 || overBytes > 0) && !isFutile ? this.#coldest(usedBeforeMs) : undefined
      if (coldest !== undefined) {
        await coldest.evict()
        continue
      }
      if (neededBytes <= 0) {
        this.#claimedBytes = claimedBytes
        return
      }
      throw fail('disk_full', `could not write a layer of ${sizeBytes} bytes to folder "${folder}"`, {
        detail:
          lackedBytes > 0
            ? `${freeBytes} bytes are free, ${keepFreeBytes} of them are kept for index documents and newer layers`
            : `layers have ${this.#filesBytes} of ${filesBytesMax} bytes`,
        hint: 'Free some space or give the data folder a larger volume.',
      })
    }
  }

  #evictableBytes(usedBeforeMs: number): number {
    let bytes = 0
    for (const { usedAtMs, mayBeEvicted, sizeBytes } of this.#files)
      if (usedAtMs < usedBeforeMs && mayBeEvicted) bytes += sizeBytes
    return bytes
  }
  #coldest(usedBeforeMs: number): EvictableFile | undefined {
    let coldest: EvictableFile | undefined
    for (const file of this.#files) {
      if (file.usedAtMs >= (coldest?.usedAtMs ?? usedBeforeMs) || !file.mayBeEvicted) continue
      coldest = file
    }
    return coldest
  }
}
