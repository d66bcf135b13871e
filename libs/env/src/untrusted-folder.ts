/**
 * Files in a folder that a less trusted user writes to at the same time: the superuser of a tenant's Postgres owns
 * PGDATA, and may put a link, a FIFO or a device where a file is expected. Nothing outside of the folder is opened
 * through it:
 *
 * - every part of a path is opened below the folder before it (openat(2), by way of /proc/self/fd) and is not followed
 *   where it is a link, so that a part that is replaced between two steps changes nothing;
 * - only regular files that belong to the owner of the folder, or to this process's own user, are read, and their size
 *   is looked at before they are read. An open never waits (O_NONBLOCK).
 *
 * One link is followed, for reading: `pg_tblspc/OID` leads to a tablespace, if that belongs to the owner of the folder.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import type { Stats } from 'node:fs'
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { Socket } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { fail } from '@understory/base'
import { diskError } from './real-disk.ts'
import type { UserIds } from './user.ts'

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants
/** open(2): only a name for what is there; Node has no constant for it. */
const O_PATH = 0o10000000
const TABLESPACE = /^pg_tblspc\/\d+$/

type Ids = Pick<UserIds, 'uid' | 'gid'>

/**
 * Opens `path` below the folder `root`, as openat(2); the caller closes the descriptor. `path` has no `..`. Errors: as
 * the operating system says (ENOENT and the like), `bad_file` where a part of the path is a link.
 */
export function openWithin(root: string, path: string, flags: number, mode?: number): number {
  return inFolderOf(root, path, (folder, name) => openat(root, path, folder, name, flags, mode))
}

/** Makes one folder below `root`, whose parent is there, with mode 0700 or `mode`. */
export function makeFolderWithin(root: string, path: string, owner: Ids | undefined, mode = 0o700): void {
  inFolderOf(root, path, (folder, name) => {
    mkdirSync(entry(folder, name), { mode })
    if (owner === undefined) return
    const made = openat(root, path, folder, name, O_RDONLY | O_DIRECTORY)
    try {
      fchownSync(made, owner.uid, owner.gid)
    } finally {
      closeSync(made)
    }
  })
}

/**
 * A connection to a Unix socket below `root`, which begins with `connect()`: to that of the folder's owner, and not to
 * another server's that a link leads to; however long the path is. Errors: as those of `openWithin`, and as connect(2).
 */
export function socketWithin(root: string, path: string): SocketWithin {
  const fd = openWithin(root, path, O_PATH)
  if (isOwn(fstatSync(fd), root)) return new SocketWithin(fd)
  closeSync(fd)
  throw notAsExpected(root, path, 'belongs to another user')
}

export class SocketWithin extends Socket {
  readonly #fd: number

  constructor(fd: number) {
    super()
    this.#fd = fd
    this.once('close', () => closeSync(fd))
  }

  /** Where others would go is not asked. */
  override connect(): this {
    return super.connect({ path: `/proc/self/fd/${this.#fd}` })
  }
}

/** Replaces anything that has the file's name, except a folder. Mode 0600 or `mode`. */
export function replaceWithin(
  root: string,
  path: string,
  content: string | Uint8Array,
  owner: Ids | undefined,
  mode = 0o600,
): void {
  inFolderOf(root, path, (folder, name) => {
    const draft = `${name}.new`
    // The other user may put something there again: then the open below is refused.
    rmSync(entry(folder, draft), { force: true })
    const fd = openat(root, `${path}.new`, folder, draft, O_WRONLY | O_CREAT | O_EXCL, mode)
    try {
      writeFileSync(fd, content)
      // The umask does not count.
      fchmodSync(fd, mode)
      if (owner !== undefined) fchownSync(fd, owner.uid, owner.gid)
    } finally {
      closeSync(fd)
    }
    renameSync(entry(folder, draft), entry(folder, name))
  })
}

/** An entry of a folder, as lstat(2) has it. */
export interface WithinEntry {
  readonly name: string
  readonly kind: 'file' | 'folder' | 'link' | 'other'
  readonly sizeBytes: number
}

/** Entries of a folder below `root`, empty where there is none. Errors: `bad_file` where a link is on the way. */
export function listWithin(root: string, path: string): WithinEntry[] {
  let fd: number
  try {
    fd = openWithin(root, path, O_RDONLY | O_DIRECTORY)
  } catch (error) {
    if (isMissing(error)) return []
    throw diskError(error, `list folder "${join(root, path)}"`)
  }
  try {
    return readdirSync(`/proc/self/fd/${fd}`).flatMap((name) => {
      const stats = lstatSync(entry(fd, name), { throwIfNoEntry: false })
      return stats === undefined ? [] : [{ name, kind: kindOf(stats), sizeBytes: stats.size }]
    })
  } finally {
    closeSync(fd)
  }
}

function kindOf(stats: Stats): WithinEntry['kind'] {
  if (stats.isFile()) return 'file'
  if (stats.isDirectory()) return 'folder'
  return stats.isSymbolicLink() ? 'link' : 'other'
}

export interface ReadWithinOptions {
  /** A larger file is refused, before it is read. */
  readonly bytesMax: number
  /** Also where the file belongs to neither the folder's owner nor this process. */
  readonly anyOwner?: boolean
}

/** The whole file; undefined where there is none. Errors: `bad_file` where it is not a file as is expected here. */
export async function readWithin(
  root: string,
  path: string,
  { bytesMax, anyOwner = false }: ReadWithinOptions,
): Promise<Buffer | undefined> {
  await using file = await openFileWithin(root, path, anyOwner)
  if (file === undefined) return undefined
  const { size } = await file.stat()
  checkSize(root, path, size, bytesMax)
  // One byte more than is allowed shows a file that grew since then.
  const bytes = Buffer.allocUnsafe(Math.min(size, bytesMax) + 1)
  let length = 0
  while (length < bytes.length) {
    const { bytesRead } = await file.read(bytes, length, bytes.length - length, length)
    if (bytesRead === 0) break
    length += bytesRead
  }
  checkSize(root, path, length, bytesMax)
  return bytes.subarray(0, length)
}

/** A regular file for reading; undefined where there is none. Errors: `bad_file` where it is something else. */
export async function openFileWithin(
  root: string,
  path: string,
  anyOwner = false,
): Promise<FileHandle | undefined> {
  let fd: number
  try {
    fd = openWithin(root, path, O_RDONLY)
  } catch (error) {
    if (isMissing(error)) return undefined
    throw diskError(error, `open file "${join(root, path)}"`)
  }
  try {
    const stats = fstatSync(fd)
    if (!stats.isFile()) throw notAsExpected(root, path, 'is not a regular file')
    if (!anyOwner && !isOwn(stats, root)) throw notAsExpected(root, path, 'belongs to another user')
    // The same inode, even if the path leads elsewhere by now.
    return await open(`/proc/self/fd/${fd}`, 'r')
  } finally {
    closeSync(fd)
  }
}

function checkSize(root: string, path: string, size: number, bytesMax: number): void {
  if (size <= bytesMax) return
  throw fail('bad_file', `file "${join(root, path)}" of ${size} bytes is too large`, {
    hint: `Make it no larger than ${bytesMax} bytes.`,
  })
}

/** Of the folder's owner, or of this process's own user, which is root only where the folder is root's. */
function isOwn({ uid }: Stats, root: string): boolean {
  const own = process.geteuid?.()
  return uid === ownerOf(root) || (uid === own && own !== 0)
}

function ownerOf(root: string): number {
  const fd = openSync(root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
  try {
    return fstatSync(fd).uid
  } finally {
    closeSync(fd)
  }
}

const entry = (folder: number, name: string): string => `/proc/self/fd/${folder}/${name}`

/** Runs `work` with a descriptor of the folder that `path` lies in. */
function inFolderOf<T>(root: string, path: string, work: (folder: number, name: string) => T): T {
  const parts = dirname(path) === '.' ? [] : dirname(path).split('/')
  let folder = openat(root, '', undefined, root, O_RDONLY | O_DIRECTORY)
  try {
    const walked: string[] = []
    for (const part of parts) {
      walked.push(part)
      const next = openat(root, walked.join('/'), folder, part, O_RDONLY | O_DIRECTORY)
      closeSync(folder)
      folder = next
    }
    return work(folder, basename(path))
  } finally {
    closeSync(folder)
  }
}

function openat(
  root: string,
  path: string,
  folder: number | undefined,
  name: string,
  flags: number,
  mode?: number,
): number {
  const at = folder === undefined ? name : entry(folder, name)
  try {
    return openSync(at, flags | O_NOFOLLOW | O_NONBLOCK, mode)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    // O_DIRECTORY with O_NOFOLLOW says ENOTDIR of a link.
    if (code !== 'ELOOP' && code !== 'ENOTDIR') throw error
    if (code === 'ENOTDIR' && (flags & O_DIRECTORY) === 0) throw error
    const tablespace = TABLESPACE.test(path) ? openTablespace(root, at, flags) : undefined
    if (tablespace !== undefined) return tablespace
    throw notAsExpected(root, path, code === 'ELOOP' ? 'is a link' : 'is a link, or not a folder', error)
  }
}

function openTablespace(root: string, at: string, flags: number): number | undefined {
  if ((flags & O_DIRECTORY) === 0) return undefined
  const fd = openSync(at, flags | O_NONBLOCK)
  if (fstatSync(fd).uid === ownerOf(root)) return fd
  closeSync(fd)
  return undefined
}

const notAsExpected = (root: string, path: string, what: string, cause?: unknown): Error =>
  fail('bad_file', `"${join(root, path)}" ${what}`, {
    hint: 'Put a regular file of the Postgres user there.',
    cause,
  })

const isMissing = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === 'ENOENT'
