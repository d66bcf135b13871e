/**
 * Files as storage needs them. A write is durable after `sync` of its file; a new, renamed or removed name is durable
 * after `syncDirectory` of its folder. Paths are absolute. Errors: `not_found`, `already_exists`, `disk_full`
 * (try again once there is room), `disk_failed` (this copy of the data is not to be trusted any more), `precondition`
 * (an operator has to set rights or paths right).
 */
import { dirname } from 'node:path'
import type { Rng } from './rng.ts'

export type OpenMode =
  /** Must exist. */
  | 'read'
  /** Must exist; read and write. */
  | 'readWrite'
  /** Made if it is not there; read and write. */
  | 'create'
  /** Must not exist; read and write. */
  | 'createNew'
  /** As `create`, and every write is durable when it resolves: for `writeDurably`. */
  | 'createDurable'

export interface DiskFile extends AsyncDisposable {
  readonly path: string
  /** The bytes from `offset`, fewer than `lengthBytes` only at the end of the file. */
  read(offset: number, lengthBytes: number): Promise<Uint8Array<ArrayBuffer>>
  /** Fills `target` from `offset`; returns how many bytes there were. */
  readInto(target: Uint8Array, offset: number): Promise<number>
  /** Writes all bytes; a write past the end leaves zeros between. */
  write(offset: number, bytes: Uint8Array): Promise<void>
  /**
   * Writes the chunks one behind the other; all of it is durable when this resolves. Only for a file opened
   * `createDurable`. A failure counts as one of `sync`.
   */
  writeDurably(offset: number, chunks: readonly Uint8Array[]): Promise<void>
  /** Writes at the end; returns the offset where it went. One appender at a time. */
  append(bytes: Uint8Array): Promise<number>
  sizeBytes(): Promise<number>
  truncate(sizeBytes: number): Promise<void>
  /**
   * fdatasync. After a failure every later `write` and `sync` of this handle fails too: the kernel may have dropped
   * the pages it could not write, so a second try that succeeds would prove nothing.
   */
  sync(): Promise<void>
  close(): Promise<void>
}

export interface DirectoryEntry {
  readonly name: string
  readonly kind: 'file' | 'directory' | 'other'
}

export interface FileStat {
  readonly kind: 'file' | 'directory' | 'other'
  readonly sizeBytes: number
  readonly modifiedMs: number
}

export interface Disk {
  open(path: string, mode: OpenMode): Promise<DiskFile>
  /** The whole file. */
  readFile(path: string): Promise<Uint8Array<ArrayBuffer>>
  /**
   * Replaces or makes the file so that after a crash it holds the old bytes or the new ones, and after this returns
   * the new ones: temporary file, sync, rename, sync of the folder.
   */
  durableReplace(path: string, bytes: Uint8Array): Promise<void>
  /**
   * Removes the temporary files that processes which ended during `durableReplace` left in the folder; returns how many
   * there were, 0 where there is no such folder. Called by the opener of a folder, before anything in it is replaced.
   */
  removeLeftovers(path: string): Promise<number>
  /** With all that are missing above it, durably; done already is fine. */
  makeDirectory(path: string): Promise<void>
  /** Sorted by name; temporary files of `durableReplace` are left out. */
  list(path: string): Promise<DirectoryEntry[]>
  /** Undefined when there is nothing. */
  stat(path: string): Promise<FileStat | undefined>
  rename(from: string, to: string): Promise<void>
  /** A file; false when there was none. */
  remove(path: string): Promise<boolean>
  /** A folder with all it holds; none is fine. */
  removeTree(path: string): Promise<void>
  truncate(path: string, sizeBytes: number): Promise<void>
  syncDirectory(path: string): Promise<void>
  /** The bytes that an unprivileged process may still write to the file system of `path`. */
  freeBytes(path: string): Promise<number>
}

/** `Disk.durableReplace` in terms of the rest of a disk; `rng` makes the temporary name. */
export async function replaceDurably(
  disk: Pick<Disk, 'open' | 'rename' | 'remove' | 'syncDirectory'>,
  path: string,
  rng: Rng,
  bytes: Uint8Array,
): Promise<void> {
  const draft = temporaryPath(path, rng)
  const file = await disk.open(draft, 'createNew')
  try {
    try {
      await file.write(0, bytes)
      await file.sync()
    } finally {
      await file.close()
    }
    await disk.rename(draft, path)
  } catch (error) {
    // The reason counts; what cannot be removed now is a leftover.
    await disk.remove(draft).catch(() => false)
    throw error
  }
  await disk.syncDirectory(dirname(path))
}

/** Ends in random digits, or in the process number and the count of earlier versions. */
const TEMPORARY = /\.new-([\da-f]{16}|\d+-\d+)$/

/**
 * A temporary name beside `path`. It is random because nothing else distinguishes processes: in a container each has
 * the process number 1, and a leftover under the same name would make every later `durableReplace` fail.
 */
function temporaryPath(path: string, rng: Rng): string {
  const digits = [rng.u32(), rng.u32()].map((part) => part.toString(16).padStart(8, '0'))
  return `${path}.new-${digits.join('')}`
}

/** Whether a name is one that a crash during `durableReplace` leaves. */
export function isTemporaryName(name: string): boolean {
  return TEMPORARY.test(name)
}
