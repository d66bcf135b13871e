/** Full-page images. Source: xlogreader.c RestoreBlockImage (16, 17, 18). */
import { zstdDecompressSync } from 'node:zlib'
import { assert, formatLsn, fail } from '@understory/base'
import { uncompressSync } from 'lz4-napi'
import { PAGE_SIZE } from '../page/bufpage.ts'
import { BKPIMAGE_COMPRESS_LZ4, BKPIMAGE_COMPRESS_PGLZ, BKPIMAGE_COMPRESS_ZSTD } from './constants.ts'
import { BKPIMAGE_COMPRESSED } from './decode-record.ts'
import { pglzDecompress } from './pglz.ts'
import type { BlockRef, DecodedRecord } from './record.ts'

/**
 * Writes the image of `ref` to `page` (8,192 bytes), the hole as zeros. Like stock Postgres it leaves pd_lsn
 * as it was when the image was taken: redo sets it afterwards. Errors: `bad_wal` if the image cannot
 * be decompressed.
 */
export function restoreBlockImage(record: DecodedRecord, ref: BlockRef, page: Uint8Array): void {
  assert(ref.hasImage && page.length === PAGE_SIZE, () => `no image, or a page of ${page.length} bytes`)
  const stored = record.bytes.subarray(ref.imageOffset, ref.imageOffset + ref.imageLength)
  const image = (ref.bimgInfo & BKPIMAGE_COMPRESSED) === 0 ? stored : decompress(record, ref, stored)
  if (ref.holeLength === 0) {
    page.set(image)
    return
  }
  const holeEnd = ref.holeOffset + ref.holeLength
  page.set(image.subarray(0, ref.holeOffset))
  page.fill(0, ref.holeOffset, holeEnd)
  page.set(image.subarray(ref.holeOffset), holeEnd)
}

function decompress(record: DecodedRecord, ref: BlockRef, stored: Uint8Array): Uint8Array {
  const size = PAGE_SIZE - ref.holeLength
  const image = tryDecompress(ref.bimgInfo, stored, size)
  if (image instanceof Uint8Array && image.length === size) return image
  throw fail(
    'bad_wal',
    `could not decompress the image of block ${ref.blockNumber} in the WAL record at ${formatLsn(record.recordLsn)}`,
    {
      cause: image,
    },
  )
}

/** The image, or the error that the library threw. */
function tryDecompress(info: number, stored: Uint8Array, size: number): unknown {
  if ((info & BKPIMAGE_COMPRESS_PGLZ) !== 0) {
    const image = new Uint8Array(size)
    return pglzDecompress(stored, 0, stored.length, image) ? image : undefined
  }
  try {
    if ((info & BKPIMAGE_COMPRESS_LZ4) !== 0) return uncompressSync(withSize(stored, size))
    if ((info & BKPIMAGE_COMPRESS_ZSTD) !== 0)
      return zstdDecompressSync(stored, { maxOutputLength: PAGE_SIZE })
  } catch (error) {
    return error
  }
  return undefined
}

/** The library wants the size before the block; Postgres stores the bare block. */
function withSize(stored: Uint8Array, size: number): Uint8Array {
  const sized = new Uint8Array(4 + stored.length)
  new DataView(sized.buffer).setUint32(0, size, true)
  sized.set(stored, 4)
  return sized
}
