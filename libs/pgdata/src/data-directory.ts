/**
 * Writes a data directory's files: pieces at offsets, in any order, several at a time. Everything has the
 * given owner and mode 0700 or 0600 from the moment it is made, or 0770 and 0660 where Postgres has another user.
 *
 * Calls that only touch names and sizes are synchronous: there are thousands, a few microseconds each. Nothing is
 * synced before `sync`: a directory that was not completed has no pg_control and cannot start.
 */
import {
  closeSync,
  constants,
  existsSync,
  fchownSync,
  fsync,
  ftruncateSync,
  mkdirSync,
  readdirSync,
  rmSync,
  write,
} from 'node:fs'
import { basename, dirname, isAbsolute, join } from 'node:path'
import { promisify } from 'node:util'
import { assert, fail } from '@understory/base'
import { diskError, makeFolderWithin, openWithin } from '@understory/env'

export interface FileOwner {
  readonly uid: number
  readonly gid: number
}

/** Handles kept open between pieces; far below the usual limit of 1,024 a process. */
const OPEN_FILES_MAX = 128
const SYNCS_AT_ONCE = 8

interface OpenFile {
  readonly fd: number
  /** Writes under way: the handle may not be closed. */
  busy: number
}

const writeAt = promisify(write)
const syncFile = promisify(fsync)
const { O_CREAT, O_DIRECTORY, O_EXCL, O_RDONLY, O_RDWR } = constants

/** Errors: `precondition` if there is anything in the directory. None is fine. */
export function checkEmpty(root: string): void {
  const isEmpty = attempt(
    `look into directory "${root}"`,
    () => !existsSync(root) || readdirSync(root).length === 0,
  )
  if (isEmpty) return
  throw fail('precondition', `directory "${root}" is not empty`, {
    hint: 'Choose another one, or remove what is in it.',
  })
}

export class DataDirectoryWriter {
  readonly root: string
  readonly #owner: FileOwner | undefined
  readonly #mode: { readonly folder: number; readonly file: number }
  readonly #isNew: boolean
  /** Size by path: of every file made so far. */
  readonly #sizes = new Map<string, number>()
  readonly #directories = new Set<string>()
  /** Least recently used first. */
  readonly #open = new Map<string, OpenFile>()
  bytesWritten = 0

  /** Errors: `precondition` if the directory has anything in it. */
  constructor(root: string, owner: FileOwner | undefined, groupMayWrite = false) {
    assert(isAbsolute(root), () => `data directory "${root}" is not absolute`)
    this.root = root
    this.#owner = owner
    this.#mode = groupMayWrite ? { folder: 0o770, file: 0o660 } : { folder: 0o700, file: 0o600 }
    checkEmpty(root)
    this.#isNew = !existsSync(root)
    attempt(`make data directory "${root}"`, () => {
      mkdirSync(dirname(root), { recursive: true })
      if (this.#isNew) makeFolderWithin(dirname(root), basename(root), owner)
      else if (owner !== undefined) giveFolder(root, owner)
    })
  }

  get filesCount(): number {
    return this.#sizes.size
  }
  has(path: string): boolean {
    return this.#sizes.has(path)
  }
  /** Paths of the files without a byte. */
  emptyFiles(): string[] {
    return [...this.#sizes].flatMap(([path, size]) => (size === 0 ? [path] : []))
  }

  /** With all that are missing above it. */
  makeDirectory(path: string): void {
    if (path === '.' || this.#directories.has(path)) return
    checkInside(path)
    this.makeDirectory(dirname(path))
    attempt(`make directory "${path}"`, () =>
      makeFolderWithin(this.root, path, this.#owner, this.#mode.folder),
    )
    this.#directories.add(path)
  }

  /** Makes the file at least this long: zeros where nothing is written. */
  reserve(path: string, sizeBytes: number): void {
    const { fd } = this.#openFile(path)
    if ((this.#sizes.get(path) as number) >= sizeBytes) return
    attempt(`extend file "${path}"`, () => ftruncateSync(fd, sizeBytes))
    this.#sizes.set(path, sizeBytes)
  }

  async write(path: string, offset: number, bytes: Uint8Array): Promise<void> {
    const file = this.#openFile(path)
    file.busy++
    try {
      for (let done = 0; done < bytes.length;) {
        done += (await writeAt(file.fd, bytes, done, bytes.length - done, offset + done)).bytesWritten
      }
    } catch (error) {
      throw diskError(error, `write file "${join(this.root, path)}"`)
    } finally {
      file.busy--
    }
    this.bytesWritten += bytes.length
    this.#sizes.set(path, Math.max(this.#sizes.get(path) as number, offset + bytes.length))
  }

  /** Everything made so far is durable when it returns. */
  async sync(): Promise<void> {
    const paths = [...this.#sizes.keys(), ...this.#directories, '.']
    const next = paths[Symbol.iterator]()
    // A few at a time: a disk orders them better than this loop does.
    await Promise.all(
      Array.from({ length: SYNCS_AT_ONCE }, async () => {
        for (const path of next) await this.#sync(this.root, path)
      }),
    )
    await this.#sync(dirname(this.root), '.')
  }

  async #sync(root: string, path: string): Promise<void> {
    let fd: number | undefined
    try {
      fd = openWithin(root, path, O_RDONLY)
      await syncFile(fd)
    } catch (error) {
      throw diskError(error, `sync "${join(root, path)}"`)
    } finally {
      if (fd !== undefined) closeSync(fd)
    }
  }

  /** Takes back everything that was made. */
  discard(): void {
    this.close()
    attempt(`remove what is in "${this.root}"`, () => {
      for (const name of readdirSync(this.root))
        rmSync(join(this.root, name), { recursive: true, force: true })
      if (this.#isNew) rmSync(this.root, { recursive: true, force: true })
    })
  }

  close(): void {
    for (const { fd } of this.#open.values()) closeSync(fd)
    this.#open.clear()
  }

  #openFile(path: string): OpenFile {
    const known = this.#open.get(path)
    if (known !== undefined) {
      this.#open.delete(path)
      this.#open.set(path, known)
      return known
    }
    checkInside(path)
    this.makeDirectory(dirname(path))
    const isNew = !this.#sizes.has(path)
    const fd = attempt(`open file "${join(this.root, path)}"`, () =>
      openWithin(this.root, path, isNew ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, this.#mode.file),
    )
    const file = { fd, busy: 0 }
    this.#open.set(path, file)
    if (isNew) {
      this.#sizes.set(path, 0)
      const owner = this.#owner
      if (owner !== undefined) attempt(`chown file "${path}"`, () => fchownSync(fd, owner.uid, owner.gid))
    }
    this.#closeOldest()
    return file
  }

  #closeOldest(): void {
    if (this.#open.size <= OPEN_FILES_MAX) return
    for (const [path, { fd, busy }] of this.#open) {
      if (busy > 0) continue
      closeSync(fd)
      this.#open.delete(path)
      return
    }
  }
}

function giveFolder(path: string, owner: FileOwner): void {
  const fd = openWithin(path, '.', O_RDONLY | O_DIRECTORY)
  try {
    fchownSync(fd, owner.uid, owner.gid)
  } finally {
    closeSync(fd)
  }
}

/** Paths come from another process. */
function checkInside(path: string): void {
  const parts = path.split('/')
  if (
    path === '' ||
    parts.some((part) => part === '' || part === '.' || part === '..' || part.includes('\0'))
  ) {
    throw fail('bad_file', `storage names a file "${path}" that is not within a data directory`)
  }
}

function attempt<T>(what: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw diskError(error, what)
  }
}
