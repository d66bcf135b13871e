/**
 * Writes tar archives (POSIX ustar, with pax records where a path is long) of folders. The same content gives the same
 * bytes: entries are in order, their times are zero, and everything belongs to root.
 */
import { createReadStream } from 'node:fs'
import { lstat, readdir, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import { fail } from '@understory/base'

const BLOCK_BYTES = 512
const NAME_BYTES_MAX = 100
const MODE_MASK = 0o7777

interface Header {
  readonly path: string
  readonly mode: number
  readonly bytes: number
  /** '0' file, '2' symbolic link, '5' folder, 'x' pax records. */
  readonly type: '0' | '2' | '5' | 'x'
  readonly target?: string
  readonly uid?: number
}

/** Whom entries belong to whose path begins with a key; root otherwise. */
type Owners = Readonly<Record<string, number>>
type Modes = Readonly<Record<string, number>>

export interface FolderEntry {
  /** In the archive, without a slash at either end; '' for its root. */
  readonly at: string
  readonly folder: string
  readonly owners?: Owners
  /** Of files, by their path in the archive; by default as in the folder. */
  readonly modes?: Modes
}

function header({ path, mode, bytes, type, target = '', uid = 0 }: Header): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES)
  const octal = (value: number, at: number, digits: number): void =>
    void block.write(`${value.toString(8).padStart(digits - 1, '0')}\0`, at, 'latin1')
  block.write(path.slice(0, NAME_BYTES_MAX), 0, 'utf8')
  octal(mode & MODE_MASK, 100, 8)
  octal(uid, 108, 8)
  octal(uid, 116, 8)
  octal(bytes, 124, 12)
  octal(0, 136, 12)
  block.write('        ', 148, 'latin1')
  block.write(type, 156, 'latin1')
  block.write(target.slice(0, NAME_BYTES_MAX), 157, 'utf8')
  block.write('ustar\x0000', 257, 'latin1')
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return block
}

const padding = (bytes: number): Buffer => Buffer.alloc((BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES)

/** Its own length is part of a record. */
function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`
  let length = Buffer.byteLength(rest)
  while (String(length).length + Buffer.byteLength(rest) !== length)
    length = String(length).length + Buffer.byteLength(rest)
  return `${length}${rest}`
}

function* headers(entry: Header): Generator<Buffer, void, void> {
  const long = (text: string): boolean => Buffer.byteLength(text) > NAME_BYTES_MAX
  const records = [
    ...(long(entry.path) ? [paxRecord('path', entry.path)] : []),
    ...(long(entry.target ?? '') ? [paxRecord('linkpath', entry.target as string)] : []),
  ].join('')
  if (records !== '') {
    const bytes = Buffer.from(records)
    yield header({ path: 'pax', mode: 0o644, bytes: bytes.length, type: 'x' })
    yield Buffer.concat([bytes, padding(bytes.length)])
  }
  yield header(entry)
}

/** One file of an archive, from memory. */
export function* tarBytes(path: string, bytes: Uint8Array): Generator<Buffer, void, void> {
  yield* headers({ path, mode: 0o644, bytes: bytes.length, type: '0' })
  yield Buffer.from(bytes)
  yield padding(bytes.length)
}

/** One file of an archive, from a file of known size. */
export async function* tarFile(
  path: string,
  source: string,
  mode = 0o644,
  uid = 0,
): AsyncGenerator<Buffer, void, void> {
  const { size } = await lstat(source)
  yield* headers({ path, mode, bytes: size, type: '0', uid })
  let bytes = 0
  for await (const chunk of createReadStream(source, { highWaterMark: 1024 * 1024 })) {
    bytes += (chunk as Buffer).length
    yield chunk as Buffer
  }
  if (bytes !== size) throw fail('precondition', `file "${source}" changed while it was read`)
  yield padding(size)
}

export const TAR_END: Buffer = Buffer.alloc(2 * BLOCK_BYTES)

/** Everything below the folders. Sockets and devices are left out: no image of ours needs one. */
export async function* tarFolders(folders: readonly FolderEntry[]): AsyncGenerator<Buffer, void, void> {
  const made = new Set<string>()
  for (const { at, folder, owners = {}, modes = {} } of folders) {
    // A layer names every folder above what it holds.
    const parts = at === '' ? [] : at.split('/')
    for (let i = 1; i <= parts.length; i++) {
      const parent = parts.slice(0, i).join('/')
      if (!made.has(parent)) yield header({ path: `${parent}/`, mode: 0o755, bytes: 0, type: '5' })
      made.add(parent)
    }
    yield* tarBelow(at, folder, owners, modes)
  }
  yield TAR_END
}

async function* tarBelow(
  at: string,
  folder: string,
  owners: Owners,
  modes: Modes,
): AsyncGenerator<Buffer, void, void> {
  for (const name of (await readdir(folder)).toSorted()) {
    const source = join(folder, name)
    const path = at === '' ? name : `${at}/${name}`
    const stat = await lstat(source)
    const uid = Object.entries(owners).find(([start]) => path.startsWith(start))?.[1] ?? 0
    if (stat.isSymbolicLink()) {
      yield* headers({ path, mode: 0o777, bytes: 0, type: '2', target: await readlink(source), uid })
    } else if (stat.isDirectory()) {
      yield* headers({ path: `${path}/`, mode: stat.mode, bytes: 0, type: '5', uid })
      yield* tarBelow(path, source, owners, modes)
    } else if (stat.isFile()) {
      yield* tarFile(path, source, modes[path] ?? stat.mode, uid)
    }
  }
}
