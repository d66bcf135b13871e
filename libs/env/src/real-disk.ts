/** `Disk` over node:fs. */
import { constants } from 'node:fs'
import type { Dirent, Stats } from 'node:fs'
import {
  type FileHandle,
  mkdir,
  open,
  readFile,
  readdir,
  rename,
  rm,
  stat,
  statfs,
  truncate,
  unlink,
} from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { BugError, assert, fail } from '@understory/base'
import {
  type Disk,
  type DiskFile,
  type FileStat,
  type OpenMode,
  isTemporaryName,
  replaceDurably,
} from './disk.ts'
import { realRng } from './rng.ts'

const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_DIRECTORY, O_DSYNC } = constants
const OPEN_FLAGS: Readonly<Record<OpenMode, number>> = {
  read: O_RDONLY,
  readWrite: O_RDWR,
  create: O_RDWR | O_CREAT,
  createNew: O_RDWR | O_CREAT | O_EXCL,
  createDurable: O_RDWR | O_CREAT | O_DSYNC,
}

/** Turns what the operating system said into a refusal; `what` completes "could not …". */
export function diskError(cause: unknown, what: string): Error {
  if (!(cause instanceof Error) || !('syscall' in cause || 'errno' in cause)) return cause as Error
  const message = `could not ${what}`
  const { code = 'unknown', message: detail, syscall } = cause as NodeJS.ErrnoException
  const extra = { detail, cause }
  const notAFolder = { ...extra, hint: 'A part of this path is a file and not a folder: give another path.' }
  switch (code) {
    case 'ENOENT':
      return fail('not_found', message, extra)
    case 'EEXIST':
      return fail('already_exists', message, syscall === 'mkdir' ? notAFolder : extra)
    case 'ENOTDIR':
      return fail('precondition', message, notAFolder)
    case 'ENOSPC':
    case 'EDQUOT':
      return fail('disk_full', message, {
        ...extra,
        hint: 'Free some space or give the data folder a larger volume.',
      })
    case 'EACCES':
    case 'EPERM':
      return fail('precondition', message, {
        ...extra,
        hint: `Give user ${process.getuid?.()} the right to do so.`,
      })
    case 'EROFS':
      return fail('precondition', message, { ...extra, hint: 'Mount the file system writable.' })
    case 'EMFILE':
    case 'ENFILE':
      return fail('unavailable', message, { ...extra, hint: 'Raise the limit of open files.' })
    case 'EBADF':
      return new BugError(`${message}: it is closed already`)
    case 'EISDIR':
    case 'ENOTEMPTY':
    case 'ENAMETOOLONG':
    case 'ELOOP':
    case 'EXDEV':
      return fail('precondition', message, extra)
    default:
      return fail('disk_failed', message, extra)
  }
}

async function attempt<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw diskError(error, what)
  }
}

class RealFile implements DiskFile {
  readonly path: string
  readonly #handle: FileHandle
  readonly #isDurable: boolean
  #endOffset: number | undefined
  #syncFailure: unknown

  constructor(path: string, handle: FileHandle, mode: OpenMode) {
    this.path = path
    this.#handle = handle
    this.#isDurable = mode === 'createDurable'
  }

  async read(offset: number, lengthBytes: number): Promise<Uint8Array<ArrayBuffer>> {
    const target = new Uint8Array(lengthBytes)
    const readBytes = await this.readInto(target, offset)
    return readBytes === lengthBytes ? target : target.subarray(0, readBytes)
  }

  readInto(target: Uint8Array, offset: number): Promise<number> {
    return attempt(`read file "${this.path}"`, async () => {
      let doneBytes = 0
      while (doneBytes < target.length) {
        const rest = target.length - doneBytes
        const { bytesRead } = await this.#handle.read(target, doneBytes, rest, offset + doneBytes)
        if (bytesRead === 0) break
        doneBytes += bytesRead
      }
      return doneBytes
    })
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.#assertTrusted()
    await attempt(`write file "${this.path}"`, async () => {
      let doneBytes = 0
      while (doneBytes < bytes.length) {
        const rest = bytes.length - doneBytes
        doneBytes += (await this.#handle.write(bytes, doneBytes, rest, offset + doneBytes)).bytesWritten
      }
    })
    if (this.#endOffset !== undefined) this.#endOffset = Math.max(this.#endOffset, offset + bytes.length)
  }

  /** O_DSYNC makes write and fdatasync one call, so that a thread is woken once. */
  async writeDurably(offset: number, chunks: readonly Uint8Array[]): Promise<void> {
    this.#assertTrusted()
    assert(this.#isDurable, () => `file "${this.path}" was not opened for durable writes`)
    let lengthBytes = 0
    for (const chunk of chunks) lengthBytes += chunk.length
    try {
      await attempt(`write file "${this.path}"`, async () => {
        const { bytesWritten } =
          chunks.length === 1
            ? await this.#handle.write(chunks[0] as Uint8Array, 0, lengthBytes, offset)
            : await this.#handle.writev(chunks, offset)
        if (bytesWritten < lengthBytes) await this.#writeRest(offset, chunks, bytesWritten)
      })
    } catch (error) {
      this.#syncFailure = error
      throw error
    }
    if (this.#endOffset !== undefined) this.#endOffset = Math.max(this.#endOffset, offset + lengthBytes)
  }

  /** A short write, as on a disk that is nearly full: continues behind it, or fails with the reason. */
  async #writeRest(offset: number, chunks: readonly Uint8Array[], doneBytes: number): Promise<void> {
    const bytes = Buffer.concat(chunks)
    for (let done = doneBytes; done < bytes.length;) {
      done += (await this.#handle.write(bytes, done, bytes.length - done, offset + done)).bytesWritten
    }
  }

  async append(bytes: Uint8Array): Promise<number> {
    const offset = (this.#endOffset ??= await this.sizeBytes())
    await this.write(offset, bytes)
    return offset
  }

  sizeBytes(): Promise<number> {
    return attempt(`stat file "${this.path}"`, async () => (await this.#handle.stat()).size)
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.#assertTrusted()
    await attempt(`truncate file "${this.path}"`, () => this.#handle.truncate(sizeBytes))
    this.#endOffset = undefined
  }

  async sync(): Promise<void> {
    this.#assertTrusted()
    try {
      await attempt(`sync file "${this.path}"`, () => this.#handle.datasync())
    } catch (error) {
      this.#syncFailure = error
      throw error
    }
  }

  close(): Promise<void> {
    return attempt(`close file "${this.path}"`, () => this.#handle.close())
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #assertTrusted(): void {
    if (this.#syncFailure === undefined) return
    throw fail('disk_failed', `file "${this.path}" could not be synced earlier`, {
      cause: this.#syncFailure,
    })
  }
}

export const realDisk: Disk = {
  async open(path, mode) {
    assert(path === resolve(path), () => `path "${path}" is not absolute`)
    const handle = await attempt(`open file "${path}"`, () => open(path, OPEN_FLAGS[mode], 0o600))
    return new RealFile(path, handle, mode)
  },

  readFile: (path) => attempt(`read file "${path}"`, async () => asPlainBytes(await readFile(path))),

  durableReplace: (path, bytes) => replaceDurably(realDisk, path, realRng, bytes),

  async removeLeftovers(path) {
    const names = await attempt(`list folder "${path}"`, async () => readdir(path).catch(undefinedIfAbsent))
    const leftovers = (names ?? []).filter(isTemporaryName)
    for (const name of leftovers) await realDisk.remove(join(path, name))
    return leftovers.length
  },

  async makeDirectory(path) {
    const first = await attempt(`make folder "${path}"`, () => mkdir(path, { recursive: true, mode: 0o700 }))
    if (first === undefined) return
    for (let made = path; ; made = dirname(made)) {
      await realDisk.syncDirectory(dirname(made))
      if (made === first) return
    }
  },

  list: (path) =>
    attempt(`list folder "${path}"`, async () => {
      const entries = await readdir(path, { withFileTypes: true })
      return entries
        .filter(({ name }) => !isTemporaryName(name))
        .map((entry) => ({ name: entry.name, kind: kindOf(entry) }))
        .sort((a, b) => (a.name < b.name ? -1 : 1))
    }),

  stat: (path) =>
    attempt(`stat "${path}"`, async () => {
      const found = await stat(path).catch(undefinedIfAbsent)
      return found === undefined
        ? undefined
        : { kind: kindOf(found), sizeBytes: found.size, modifiedMs: found.mtimeMs }
    }),

  rename: (from, to) => attempt(`rename "${from}" to "${to}"`, () => rename(from, to)),

  remove: (path) =>
    attempt(`remove file "${path}"`, async () => {
      const removed = await unlink(path).then(() => true, undefinedIfAbsent)
      return removed ?? false
    }),

  removeTree: (path) => attempt(`remove folder "${path}"`, () => rm(path, { recursive: true, force: true })),

  truncate: (path, sizeBytes) => attempt(`truncate file "${path}"`, () => truncate(path, sizeBytes)),

  syncDirectory: (path) =>
    attempt(`sync folder "${path}"`, async () => {
      await using handle = await open(path, O_RDONLY | O_DIRECTORY)
      await handle.sync()
    }),

  freeBytes: (path) =>
    attempt(`ask for the free space of "${path}"`, async () => {
      const { bavail, bsize } = await statfs(path)
      return bavail * bsize
    }),
}

/** Node pools small reads; a copy of the view's own keeps the pool from living on with it. */
function asPlainBytes(buffer: Buffer): Uint8Array<ArrayBuffer> {
  const isWhole = buffer.byteOffset === 0 && buffer.byteLength === buffer.buffer.byteLength
  return isWhole ? new Uint8Array(buffer.buffer as ArrayBuffer) : new Uint8Array(buffer)
}

function kindOf(entry: Dirent | Stats): FileStat['kind'] {
  if (entry.isFile()) return 'file'
  return entry.isDirectory() ? 'directory' : 'other'
}

function undefinedIfAbsent(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  return undefined
}

/** For those who lay out folders: joins and refuses what would leave `root`. */
export function pathInside(root: string, ...parts: readonly string[]): string {
  const path = join(root, ...parts)
  if (path === root || path.startsWith(root.endsWith('/') ? root : `${root}/`)) return path
  throw fail('bad_argument', `path "${parts.join('/')}" leaves its folder`)
}
