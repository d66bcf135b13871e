/**
 * A disk that forgets. Written bytes are in the cache; synced ones are on the medium; a loss of power keeps any part
 * of the rest, sector by sector and name by name. A process that is killed loses nothing but its own calls.
 *
 * After a sync that failed the cache still has the bytes and calls them clean: syncing again writes nothing, as Linux
 * does. So only writing them again makes them durable.
 */
import { dirname } from 'node:path'
import { seededRng } from '@understory/env'
import { startProcess } from './sim-disk-process.ts'
import type { DiskProcess, SimDiskHost } from './sim-disk-process.ts'
import { Inode } from './sim-inode.ts'
import { NameTable } from './sim-names.ts'

export type { DiskProcess, SimDiskHost } from './sim-disk-process.ts'

export class SimDisk {
  readonly #host: SimDiskHost
  readonly #names = new NameTable()
  #processCount = 0

  constructor(host: SimDiskHost) {
    this.#host = host
  }

  process(): DiskProcess {
    return startProcess(this.#host, this.#names, seededRng(++this.#processCount))
  }

  /** The bytes of a file now, or those that the medium has of it. */
  bytesOf(path: string, where: 'cache' | 'medium'): Uint8Array | undefined {
    const { current, medium } = this.#names
    const inode = (where === 'cache' ? current : medium).get(path)
    if (!(inode instanceof Inode)) return undefined
    if (where === 'cache') return inode.cache.subarray(0, inode.sizeBytes)
    for (let folder = dirname(path); folder !== '/'; folder = dirname(folder))
      if (medium.get(folder) !== 'directory') return undefined
    return inode.medium
  }

  /** Temporary files that `list` hides. */
  leftovers(): string[] {
    return this.#names.leftovers()
  }

  losePower(): void {
    const { rng, counts } = this.#host
    let [kept, lost] = [0, 0]
    const survives = (): boolean => {
      const isKept = rng.below(2) === 0
      if (isKept) kept++
      else lost++
      return isKept
    }
    const inodes = new Set([...this.#names.current.values(), ...this.#names.medium.values()])
    for (const inode of inodes) {
      if (inode === 'directory') continue
      for (const sector of inode.dirty) if (survives()) inode.writeBack(sector)
      if (inode.isSizeDirty && survives()) inode.mediumSizeBytes = inode.sizeBytes
      inode.forget()
    }
    this.#names.losePower(survives)
    if (lost > 0) counts.fault(kept > 0 ? 'unsynced write torn' : 'unsynced write lost')
  }
}
