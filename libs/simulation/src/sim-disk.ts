/**
 * A disk that forgets. What is written is in the cache; what is synced is on the medium; a loss of power keeps any part
 * of the rest, sector by sector and name by name. A process that is killed loses nothing but its own calls.
 *
 * After a sync that failed the cache still has the bytes and calls them clean: syncing again writes nothing, as Linux
 * does. So only writing them again makes them durable.
 */
import { dirname } from 'node:path'
import { BugError, refuse } from '@understory/base'
import { isTemporaryName, replaceDurably, seededRng } from '@understory/env'
import type { Disk, DiskFile, FileStat, OpenMode, Rng } from '@understory/env'
import type { ArmedFaults } from './acceptor-node.ts'
import type { Counts } from './counts.ts'
import type { Schedule } from './schedule.ts'

const SECTOR_BYTES = 512

class Inode {
  cache = new Uint8Array(0)
  medium = new Uint8Array(0)
  /** Sectors that differ and will be written by the next sync. */
  readonly dirty = new Set<number>()
  sizeBytes = 0
  mediumSizeBytes = 0
  isSizeDirty = false

  resize(sizeBytes: number): void {
    if (sizeBytes > this.cache.length) {
      const larger = new Uint8Array(Math.max(sizeBytes, 2 * this.cache.length))
      larger.set(this.cache)
      this.cache = larger
    }
    if (sizeBytes < this.sizeBytes) {
      this.cache.fill(0, sizeBytes, this.sizeBytes)
      this.touch(sizeBytes, this.sizeBytes)
    }
    this.sizeBytes = sizeBytes
    this.isSizeDirty = true
  }

  touch(from: number, to: number): void {
    for (let sector = Math.floor(from / SECTOR_BYTES); sector * SECTOR_BYTES < to; sector++)
      this.dirty.add(sector)
  }

  write(offset: number, bytes: Uint8Array): void {
    if (offset + bytes.length > this.sizeBytes) this.resize(offset + bytes.length)
    this.cache.set(bytes, offset)
    this.touch(offset, offset + bytes.length)
  }

  writeBack(sector: number): void {
    const [from, to] = [sector * SECTOR_BYTES, Math.min(this.cache.length, (sector + 1) * SECTOR_BYTES)]
    if (to > this.medium.length) {
      const larger = new Uint8Array(this.cache.length)
      larger.set(this.medium)
      this.medium = larger
    }
    this.medium.set(this.cache.subarray(from, to), from)
  }

  sync(): void {
    for (const sector of this.dirty) this.writeBack(sector)
    this.dirty.clear()
    this.mediumSizeBytes = this.sizeBytes
    this.isSizeDirty = false
  }

  /** As the medium has it. */
  forget(): void {
    this.cache = this.medium.slice()
    this.sizeBytes = this.mediumSizeBytes
    if (this.cache.length < this.sizeBytes) {
      const larger = new Uint8Array(this.sizeBytes)
      larger.set(this.cache)
      this.cache = larger
    }
    this.cache.fill(0, this.sizeBytes)
    this.dirty.clear()
    this.isSizeDirty = false
  }
}

type Entry = Inode | 'directory'

export interface SimDiskHost {
  readonly schedule: Schedule
  readonly rng: Rng
  readonly counts: Counts
  readonly armed: ArmedFaults
  /** An armed crash strikes. */
  crash(): void
  /** Whether a read there, of a part or of the whole file, may return a flipped bit. */
  mayFlip(path: string, offset: number, isWholeFile: boolean): boolean
}

/** One process's calls: none of them has any effect, or returns, once it is dead. */
export interface DiskProcess {
  isDead: boolean
  readonly disk: Disk
}

export class SimDisk {
  readonly #host: SimDiskHost
  /** The data folder is there, durably, as its owner made it. */
  #names = new Map<string, Entry>([
    ['/', 'directory'],
    ['/data', 'directory'],
  ])
  readonly #mediumNames = new Map(this.#names)
  /** Names that changed since their folder was synced. */
  readonly #dirtyNames = new Set<string>()
  #processCount = 0

  constructor(host: SimDiskHost) {
    this.#host = host
  }

  /** What a file says now, or what the medium has of it. */
  bytesOf(path: string, where: 'cache' | 'medium'): Uint8Array | undefined {
    const inode = (where === 'cache' ? this.#names : this.#mediumNames).get(path)
    if (!(inode instanceof Inode)) return undefined
    if (where === 'cache') return inode.cache.subarray(0, inode.sizeBytes)
    for (let folder = dirname(path); folder !== '/'; folder = dirname(folder))
      if (this.#mediumNames.get(folder) !== 'directory') return undefined
    return inode.medium
  }

  /** Temporary files that `list` hides. */
  leftovers(): string[] {
    return [...this.#names.keys()].filter(isTemporaryName)
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
    const inodes = new Set([...this.#names.values(), ...this.#mediumNames.values()])
    for (const inode of inodes) {
      if (inode === 'directory') continue
      for (const sector of inode.dirty) if (survives()) inode.writeBack(sector)
      if (inode.isSizeDirty && survives()) inode.mediumSizeBytes = inode.sizeBytes
      inode.forget()
    }
    for (const path of this.#dirtyNames) if (survives()) this.#settleName(path)
    this.#dirtyNames.clear()
    for (const path of this.#mediumNames.keys())
      if (path !== '/' && this.#mediumNames.get(dirname(path)) !== 'directory') this.#mediumNames.delete(path)
    this.#names = new Map(this.#mediumNames)
    if (lost > 0) counts.fault(kept > 0 ? 'unsynced write torn' : 'unsynced write lost')
  }

  #settleName(path: string): void {
    const entry = this.#names.get(path)
    if (entry === undefined) this.#mediumNames.delete(path)
    else this.#mediumNames.set(path, entry)
  }

  #setName(path: string, entry: Entry | undefined): void {
    if (entry === undefined) this.#names.delete(path)
    else this.#names.set(path, entry)
    this.#dirtyNames.add(path)
  }

  process(): DiskProcess {
    // Of its own, so that names do not shift what the schedule draws.
    const nameRng = seededRng(++this.#processCount)
    const { schedule, rng, counts, armed } = this.#host
    const names = (): Map<string, Entry> => this.#names

    /** Between the effects of a process: it may end here. A dead one waits for ever. */
    const boundary = async (delayMs = 0): Promise<void> => {
      if (process.isDead) return never()
      if (armed.crashAfterEffects > 0 && --armed.crashAfterEffects === 0) {
        counts.fault('crash between effects')
        this.#host.crash()
        return never()
      }
      if (delayMs > 0) {
        const isSlow = armed.slowUntilMs > schedule.nowMs
        if (isSlow) counts.fault('slow disk')
        await new Promise<void>((resolve) => {
          schedule.at(delayMs + (isSlow ? 30 + rng.below(200) : 0), () => {
            schedule.stir()
            resolve()
          })
        })
        if (process.isDead) return never()
      }
    }
    const takeRoom = (path: string): void => {
      if (armed.fullUntilMs <= schedule.nowMs) return
      counts.fault('disk full')
      throw refuse('disk_full', `could not write file "${path}"`)
    }
    const failSync = (path: string, inode: Inode): void => {
      if (armed.failSyncAfter === 0 || --armed.failSyncAfter > 0) return
      counts.fault('sync failed')
      // The cache keeps the bytes and forgets that the medium lacks them.
      inode.dirty.clear()
      throw refuse('disk_failed', `could not sync file "${path}"`)
    }
    const flip = (path: string, bytes: Uint8Array, at: number, isWholeFile: boolean): void => {
      if (armed.flipReadAfter === 0 || bytes.length === 0) return
      const offset = rng.below(bytes.length)
      // Not in what is zero: padding between records is under no checksum, and nobody reads it.
      if (
        bytes[offset] === 0 ||
        !this.#host.mayFlip(path, at + offset, isWholeFile) ||
        --armed.flipReadAfter > 0
      )
        return
      counts.fault('bit flip on read')
      bytes[offset] = (bytes[offset] as number) ^ (1 << rng.below(8))
    }
    const inodeOf = (path: string): Inode => {
      const found = names().get(path)
      if (found === undefined) throw refuse('not_found', `could not open file "${path}"`)
      if (found === 'directory') throw refuse('precondition', `"${path}" is a folder`)
      return found
    }

    class SimFile implements DiskFile {
      readonly path: string
      readonly #inode: Inode
      #hasFailed = false
      #isClosed = false

      constructor(path: string, inode: Inode) {
        this.path = path
        this.#inode = inode
      }
      #assertUsable(): void {
        if (this.#isClosed) throw new BugError(`file "${this.path}" is closed already`)
        if (this.#hasFailed) throw refuse('disk_failed', `file "${this.path}" could not be synced earlier`)
      }
      async read(offset: number, lengthBytes: number): Promise<Uint8Array<ArrayBuffer>> {
        const target = new Uint8Array(lengthBytes)
        return target.subarray(0, await this.readInto(target, offset))
      }
      async readInto(target: Uint8Array, offset: number): Promise<number> {
        await boundary()
        if (this.#isClosed) throw new BugError(`file "${this.path}" is closed already`)
        const size = Math.max(0, Math.min(target.length, this.#inode.sizeBytes - offset))
        target.set(this.#inode.cache.subarray(offset, offset + size))
        flip(this.path, target.subarray(0, size), offset, false)
        return size
      }
      async write(offset: number, bytes: Uint8Array): Promise<void> {
        await boundary()
        this.#assertUsable()
        takeRoom(this.path)
        this.#inode.write(offset, bytes)
      }
      async writeDurably(offset: number, chunks: readonly Uint8Array[]): Promise<void> {
        await boundary()
        this.#assertUsable()
        const bytes = Buffer.concat(chunks)
        try {
          if (armed.fullUntilMs > schedule.nowMs)
            this.#inode.write(offset, bytes.subarray(0, bytes.length / 2))
          takeRoom(this.path)
          this.#inode.write(offset, bytes)
          await boundary(1 + rng.below(6))
          failSync(this.path, this.#inode)
        } catch (error) {
          this.#hasFailed = true
          throw error
        }
        this.#inode.sync()
        await boundary()
      }
      async append(bytes: Uint8Array): Promise<number> {
        const offset = this.#inode.sizeBytes
        await this.write(offset, bytes)
        return offset
      }
      async sizeBytes(): Promise<number> {
        await boundary()
        return this.#inode.sizeBytes
      }
      async truncate(sizeBytes: number): Promise<void> {
        await boundary()
        this.#assertUsable()
        this.#inode.resize(sizeBytes)
      }
      async sync(): Promise<void> {
        await boundary(1 + rng.below(4))
        this.#assertUsable()
        try {
          failSync(this.path, this.#inode)
        } catch (error) {
          this.#hasFailed = true
          throw error
        }
        this.#inode.sync()
        await boundary()
      }
      close(): Promise<void> {
        this.#isClosed = true
        return Promise.resolve()
      }
      [Symbol.asyncDispose](): Promise<void> {
        return this.close()
      }
    }

    const open = async (path: string, mode: OpenMode): Promise<DiskFile> => {
      await boundary()
      const found = names().get(path)
      if (mode === 'createNew' && found !== undefined) throw refuse('already_exists', `file "${path}" exists`)
      if (found === undefined && mode !== 'read' && mode !== 'readWrite') {
        if (names().get(dirname(path)) !== 'directory')
          throw refuse('not_found', `could not open file "${path}"`)
        this.#setName(path, new Inode())
      }
      return new SimFile(path, inodeOf(path))
    }

    const disk: Disk = {
      open,
      readFile: async (path) => {
        await boundary()
        const inode = inodeOf(path)
        const bytes = inode.cache.slice(0, inode.sizeBytes)
        flip(path, bytes, 0, true)
        return bytes
      },
      durableReplace: (path, bytes) => replaceDurably(disk, path, nameRng, bytes),
      removeLeftovers: async (path) => {
        await boundary()
        const leftovers = this.leftovers().filter((name) => dirname(name) === path)
        for (const name of leftovers) await disk.remove(name)
        return leftovers.length
      },
      makeDirectory: async (path) => {
        const missing: string[] = []
        for (let at = path; names().get(at) === undefined; at = dirname(at)) missing.push(at)
        for (const folder of missing.reverse()) {
          await boundary()
          this.#setName(folder, 'directory')
        }
        for (const folder of missing) await disk.syncDirectory(dirname(folder))
      },
      list: async (path) => {
        await boundary()
        return [...names()]
          .filter(([name]) => name !== '/' && dirname(name) === path)
          .map(([name, entry]) => ({
            name: name.slice(path.length + 1),
            kind: entry === 'directory' ? ('directory' as const) : ('file' as const),
          }))
          .filter(({ name }) => !isTemporaryName(name))
          .sort((a, b) => (a.name < b.name ? -1 : 1))
      },
      stat: async (path): Promise<FileStat | undefined> => {
        await boundary()
        const entry = names().get(path)
        if (entry === undefined) return undefined
        const isFile = entry !== 'directory'
        return { kind: isFile ? 'file' : 'directory', sizeBytes: isFile ? entry.sizeBytes : 0, modifiedMs: 0 }
      },
      rename: async (from, to) => {
        await boundary()
        const entry = inodeOf(from)
        this.#setName(to, entry)
        this.#setName(from, undefined)
      },
      remove: async (path) => {
        await boundary()
        if (names().get(path) === undefined) return false
        this.#setName(path, undefined)
        return true
      },
      removeTree: async (path) => {
        await boundary()
        for (const name of names().keys())
          if (name === path || name.startsWith(`${path}/`)) this.#setName(name, undefined)
      },
      truncate: async (path, sizeBytes) => {
        await boundary()
        inodeOf(path).resize(sizeBytes)
      },
      syncDirectory: async (path) => {
        await boundary(1)
        for (const name of this.#dirtyNames) {
          if (dirname(name) !== path) continue
          this.#settleName(name)
          this.#dirtyNames.delete(name)
        }
        await boundary()
      },
      freeBytes: () => Promise.resolve(2 ** 30),
    }
    const process: DiskProcess = { isDead: false, disk }
    return process
  }
}

const never = (): Promise<never> => new Promise(() => undefined)
