/**
 * Keeps the last of the room on a disk free of layers, for the documents that say which layers there are: a disk that
 * layers have filled still takes a new index, a generation and settings. One for all shards of a data folder, since
 * they write at the same time.
 */
import { fail } from '@understory/base'
import type { Disk } from '@understory/env'

/** An index has some 200 bytes a layer; each is written beside the one that it replaces. */
const RESERVED_BYTES = 16 * 1024 * 1024

export class LayerRoom {
  readonly #disk: Disk
  /** Of layers that are being written. */
  #claimedBytes = 0

  constructor(disk: Disk) {
    this.#disk = disk
  }

  /**
   * Does `write`, which puts so many bytes into the folder and leaves `keepFreeBytes`. Errors: `disk_full`, before
   * anything is written.
   */
  async claim<T>(
    folder: string,
    sizeBytes: number,
    write: () => Promise<T>,
    keepFreeBytes = RESERVED_BYTES,
  ): Promise<T> {
    this.#claimedBytes += sizeBytes
    try {
      const freeBytes = await this.#disk.freeBytes(folder)
      if (freeBytes < this.#claimedBytes + keepFreeBytes) {
        throw fail('disk_full', `could not write a layer of ${sizeBytes} bytes to folder "${folder}"`, {
          detail: `${freeBytes} bytes are free, ${keepFreeBytes} of them are kept for index documents and newer layers`,
          hint: 'Free some space or give the data folder a larger volume.',
        })
      }
      return await write()
    } finally {
      this.#claimedBytes -= sizeBytes
    }
  }
}
