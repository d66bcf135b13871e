/**
 * Reads a tar archive as it arrives: ustar as Postgres's tarCreateHeader writes it (port/tar.c, 16 to 18), which means
 * regular files, directories and symbolic links with names of up to 99 bytes, and no extensions.
 */
import { fail } from '@understory/base'

export type TarEvent =
  /** A file of `size` bytes; its bytes follow as `data`. */
  | { readonly kind: 'file'; readonly path: string; readonly size: number }
  /** The next bytes of the file; borrowed from what was pushed. */
  | { readonly kind: 'data'; readonly bytes: Buffer }
  | { readonly kind: 'directory'; readonly path: string }
  | { readonly kind: 'symlink'; readonly path: string; readonly target: string }

const BLOCK_BYTES = 512

export class TarReader {
  #header = Buffer.alloc(0)
  /** Bytes of the file still to come, then of the padding after it. */
  #dataLeft = 0
  #paddingLeft = 0

  /** Errors: `bad_file` where the archive ends within an entry. */
  end(): void {
    if (this.#dataLeft > 0 || this.#header.length > 0) throw fail('bad_file', 'tar archive is cut off')
  }

  /** Takes the next bytes in. Errors: `bad_file`. */
  *push(chunk: Buffer): Generator<TarEvent, void, void> {
    let at = 0
    while (at < chunk.length) {
      const left = chunk.length - at
      if (this.#dataLeft > 0) {
        const size = Math.min(left, this.#dataLeft)
        yield { kind: 'data', bytes: chunk.subarray(at, at + size) }
        this.#dataLeft -= size
        at += size
      } else if (this.#paddingLeft > 0) {
        const size = Math.min(left, this.#paddingLeft)
        this.#paddingLeft -= size
        at += size
      } else {
        const size = Math.min(left, BLOCK_BYTES - this.#header.length)
        this.#header = Buffer.concat([this.#header, chunk.subarray(at, at + size)])
        at += size
        if (this.#header.length === BLOCK_BYTES) {
          const header = this.#header
          this.#header = Buffer.alloc(0)
          yield* this.#begin(header)
        }
      }
    }
  }

  *#begin(header: Buffer): Generator<TarEvent, void, void> {
    // Two blocks of zeros end an archive.
    if (header.every((byte) => byte === 0)) return
    if (numberAt(header, 148, 8) !== checksumOf(header))
      throw fail('bad_file', 'tar header has an incorrect checksum')
    const path = textAt(header, 0, 100).replace(/^\.\//, '').replace(/\/$/, '')
    const type = String.fromCharCode(header[156] as number)
    if (type === '5') {
      yield { kind: 'directory', path }
    } else if (type === '2') {
      yield { kind: 'symlink', path, target: textAt(header, 157, 100) }
    } else if (type === '0' || type === '\0') {
      const size = numberAt(header, 124, 12)
      this.#dataLeft = size
      this.#paddingLeft = -size & (BLOCK_BYTES - 1)
      yield { kind: 'file', path, size }
    } else {
      throw fail('bad_file', `tar entry "${path}" is of the unknown type "${type}"`)
    }
  }
}

function textAt(header: Buffer, at: number, size: number): string {
  const end = header.indexOf(0, at)
  return header.toString('utf8', at, end < 0 || end > at + size ? at + size : end)
}

/** Octal digits, or base 256 behind a byte with its high bit set. */
function numberAt(header: Buffer, at: number, size: number): number {
  if (((header[at] as number) & 0x80) !== 0) {
    let value = (header[at] as number) & 0x7f
    for (let i = 1; i < size; i++) value = value * 256 + (header[at + i] as number)
    return value
  }
  return Number.parseInt(
    header
      .toString('latin1', at, at + size)
      .replaceAll('\0', ' ')
      .trim() || '0',
    8,
  )
}

function checksumOf(header: Buffer): number {
  let sum = 0
  for (let i = 0; i < BLOCK_BYTES; i++) sum += i >= 148 && i < 156 ? 0x20 : (header[i] as number)
  return sum
}
