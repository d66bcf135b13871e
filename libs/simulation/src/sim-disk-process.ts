/** The simulated disk as one process sees it: every call is a boundary at which it may end. */
import { dirname } from 'node:path'
import { BugError, fail } from '@understory/base'
import { isTemporaryName, replaceDurably } from '@understory/env'
import type { Disk, DiskFile, FileStat, OpenMode, Rng } from '@understory/env'
import type { ArmedFaults } from './acceptor-node.ts'
import type { Counts } from './counts.ts'
import type { Schedule } from './schedule.ts'
import { Inode } from './sim-inode.ts'
import type { NameTable } from './sim-names.ts'

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

/** The calls of one process: none of them has any effect, or returns, once it is dead. */
export interface DiskProcess {
  isDead: boolean
  readonly disk: Disk
}

/** `nameRng` is of its own, so that names do not shift what the schedule draws. */
export function startProcess(host: SimDiskHost, names: NameTable, nameRng: Rng): DiskProcess {
  const { schedule, rng, counts, armed } = host

  /** Between the effects of a process: it may end here. A dead one waits for ever. */
  const boundary = async (delayMs = 0): Promise<void> => {
    if (process.isDead) return never()
    if (armed.crashAfterEffects > 0 && --armed.crashAfterEffects === 0) {
      counts.fault('crash between effects')
      host.crash()
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
    throw fail('disk_full', `could not write file "${path}"`)
  }
  const failSync = (path: string, inode: Inode): void => {
    if (armed.failSyncAfter === 0 || --armed.failSyncAfter > 0) return
    counts.fault('sync failed')
    // The cache keeps the bytes and forgets that the medium lacks them.
    inode.dirty.clear()
    throw fail('disk_failed', `could not sync file "${path}"`)
  }
  const flip = (path: string, bytes: Uint8Array, at: number, isWholeFile: boolean): void => {
    if (armed.flipReadAfter === 0 || bytes.length === 0) return
    const offset = rng.below(bytes.length)
    // Not in zeros: padding between records is under no checksum, and is never read.
    if (bytes[offset] === 0 || !host.mayFlip(path, at + offset, isWholeFile) || --armed.flipReadAfter > 0)
      return
    counts.fault('bit flip on read')
    bytes[offset] = (bytes[offset] as number) ^ (1 << rng.below(8))
  }
  const inodeOf = (path: string): Inode => {
    const found = names.current.get(path)
    if (found === undefined) throw fail('not_found', `could not open file "${path}"`)
    if (found === 'directory') throw fail('precondition', `"${path}" is a folder`)
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
      if (this.#hasFailed) throw fail('disk_failed', `file "${this.path}" could not be synced earlier`)
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
        if (armed.fullUntilMs > schedule.nowMs) this.#inode.write(offset, bytes.subarray(0, bytes.length / 2))
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
    const found = names.current.get(path)
    if (mode === 'createNew' && found !== undefined) throw fail('already_exists', `file "${path}" exists`)
    if (found === undefined && mode !== 'read' && mode !== 'readWrite') {
      if (names.current.get(dirname(path)) !== 'directory')
        throw fail('not_found', `could not open file "${path}"`)
      names.set(path, new Inode())
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
      const leftovers = names.leftovers().filter((name) => dirname(name) === path)
      for (const name of leftovers) await disk.remove(name)
      return leftovers.length
    },
    makeDirectory: async (path) => {
      const missing: string[] = []
      for (let at = path; names.current.get(at) === undefined; at = dirname(at)) missing.push(at)
      for (const folder of missing.reverse()) {
        await boundary()
        names.set(folder, 'directory')
      }
      for (const folder of missing) await disk.syncDirectory(dirname(folder))
    },
    list: async (path) => {
      await boundary()
      return [...names.current]
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
      const entry = names.current.get(path)
      if (entry === undefined) return undefined
      const isFile = entry !== 'directory'
      return { kind: isFile ? 'file' : 'directory', sizeBytes: isFile ? entry.sizeBytes : 0, modifiedMs: 0 }
    },
    rename: async (from, to) => {
      await boundary()
      const entry = inodeOf(from)
      names.set(to, entry)
      names.set(from, undefined)
    },
    remove: async (path) => {
      await boundary()
      if (names.current.get(path) === undefined) return false
      names.set(path, undefined)
      return true
    },
    removeTree: async (path) => {
      await boundary()
      for (const name of names.current.keys())
        if (name === path || name.startsWith(`${path}/`)) names.set(name, undefined)
    },
    truncate: async (path, sizeBytes) => {
      await boundary()
      inodeOf(path).resize(sizeBytes)
    },
    syncDirectory: async (path) => {
      await boundary(1)
      names.syncFolder(path)
      await boundary()
    },
    freeBytes: () => Promise.resolve(2 ** 30),
  }
  const process: DiskProcess = { isDead: false, disk }
  return process
}

const never = (): Promise<never> => new Promise(() => undefined)
