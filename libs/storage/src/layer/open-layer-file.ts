/** Opens a layer file: reads and checks its header and footer. */
import { crc32c } from '@node-rs/crc32'
import { fail } from '@understory/base'
import { readKey } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import type { BlockCache } from './block-cache.ts'
import { damagedLayer, shapeOfVersion1, viewOf } from './index-block.ts'
import { LayerFile } from './layer-file.ts'
import type { LayerFrame, LayerSource } from './layer-file.ts'
import {
  INDEX_BYTES_MAX,
  LAYER_KIND_DELTA,
  LAYER_KIND_IMAGE,
  LAYER_MAGIC,
  LAYER_VERSION,
  LayerFooter,
  LayerFooterV1,
  LayerHeader,
} from './layer-format.ts'
import type { LayerKind, LayerOwner } from './layer-format.ts'

/** Opens a layer of `owner`. Errors: `bad_file`. */
export async function openLayer(
  source: LayerSource,
  owner: LayerOwner,
  cache: BlockCache,
): Promise<LayerFile> {
  const { name, sizeBytes } = source
  if (sizeBytes < LayerHeader.SIZE + LayerFooterV1.SIZE)
    throw damagedLayer(name, `it has only ${sizeBytes} bytes`)
  const header = viewOf(await readExactly(source, 0, LayerHeader.SIZE))
  const version = checkHeader(name, header, owner)
  const frame = version === 1 ? await frameOfVersion1(source, header) : await frameOf(source, header)
  return new LayerFile(source, cache, frame)
}

/** What the header says of every version. */
function fromHeader(header: DataView): Omit<LayerFrame, 'dataEnd' | 'indexEnd' | 'top' | 'filter'> {
  return {
    kind: LayerHeader.kind.get(header, 0) as LayerKind,
    generation: Number(LayerHeader.generation.get(header, 0)),
    lsnMin: LayerHeader.lsnMin.get(header, 0),
    lsnMax: LayerHeader.lsnMax.get(header, 0),
    keyFirst: keyOf(LayerHeader.keyFirst.get(header, 0)),
    keyLast: keyOf(LayerHeader.keyLast.get(header, 0)),
    keyCount: LayerHeader.keyCount.get(header, 0),
    valueCount: LayerHeader.valueCount.get(header, 0),
  }
}

async function frameOf(source: LayerSource, header: DataView): Promise<LayerFrame> {
  const { name, sizeBytes } = source
  const footerAt = sizeBytes - LayerFooter.SIZE
  if (footerAt < LayerHeader.SIZE) throw damagedLayer(name, `it has only ${sizeBytes} bytes`)
  const footer = viewOf(await readExactly(source, footerAt, LayerFooter.SIZE))
  const where = `footer at byte ${footerAt}`
  checkCrc(name, footer, LayerFooter.SIZE - 4, LayerFooter.crc.get(footer, 0), where)
  const dataEnd = Number(LayerFooter.indexOffset.get(footer, 0))
  const filterAt = Number(LayerFooter.filterOffset.get(footer, 0))
  const filterBytes = LayerFooter.filterBytes.get(footer, 0)
  const topAt = Number(LayerFooter.topOffset.get(footer, 0))
  const topBytes = LayerFooter.topStoredBytes.get(footer, 0)
  const rawBytes = LayerFooter.topRawBytes.get(footer, 0)
  const isInOrder = LayerHeader.SIZE <= dataEnd && dataEnd < filterAt
  if (LayerFooter.magic.get(footer, 0) !== LAYER_MAGIC) throw damagedLayer(name, `${where} has a wrong magic`)
  if (!isInOrder || filterAt + filterBytes !== topAt || topAt + topBytes !== footerAt) {
    const parts = `index ${dataEnd}, filter ${filterAt} to ${filterAt + filterBytes}, top index ${topAt} to ${topAt + topBytes}`
    throw damagedLayer(name, `${where} puts its parts out of order: ${parts}`)
  }
  if (rawBytes > INDEX_BYTES_MAX) throw damagedLayer(name, `top index of ${rawBytes} bytes is too large`)
  return {
    ...fromHeader(header),
    dataEnd,
    indexEnd: filterAt,
    top: {
      version: 2,
      place: { offset: topAt, storedBytes: topBytes, rawBytes, crc: LayerFooter.topCrc.get(footer, 0) },
    },
    filter: {
      offset: filterAt,
      storedBytes: filterBytes,
      rawBytes: filterBytes,
      crc: LayerFooter.filterCrc.get(footer, 0),
    },
  }
}

async function frameOfVersion1(source: LayerSource, header: DataView): Promise<LayerFrame> {
  const { name, sizeBytes } = source
  const footerAt = sizeBytes - LayerFooterV1.SIZE
  const footer = viewOf(await readExactly(source, footerAt, LayerFooterV1.SIZE))
  const where = `footer at byte ${footerAt}`
  checkCrc(name, footer, LayerFooterV1.SIZE - 4, LayerFooterV1.crc.get(footer, 0), where)
  if (LayerFooterV1.magic.get(footer, 0) !== LAYER_MAGIC)
    throw damagedLayer(name, `${where} has a wrong magic`)
  const dataEnd = Number(LayerFooterV1.indexOffset.get(footer, 0))
  const storedBytes = LayerFooterV1.indexStoredBytes.get(footer, 0)
  if (dataEnd < LayerHeader.SIZE || dataEnd + storedBytes !== footerAt) {
    const range = `${dataEnd} to ${dataEnd + storedBytes}`
    throw damagedLayer(name, `${where} puts the index at ${range}, but it must end at ${footerAt}`)
  }
  const rawBytes = LayerFooterV1.indexRawBytes.get(footer, 0)
  if (rawBytes > INDEX_BYTES_MAX) throw damagedLayer(name, `index of ${rawBytes} bytes is too large`)
  const frame = fromHeader(header)
  return {
    ...frame,
    dataEnd,
    indexEnd: footerAt,
    top: {
      version: 1,
      place: { offset: dataEnd, storedBytes, rawBytes, crc: LayerFooterV1.indexCrc.get(footer, 0) },
      shape: shapeOfVersion1(LayerFooterV1.blockCount.get(footer, 0), frame.keyCount, frame.valueCount),
    },
    filter: { offset: footerAt, storedBytes: 0, rawBytes: 0, crc: 0 },
  }
}

/** Returns the version. */
function checkHeader(name: string, header: DataView, owner: LayerOwner): 1 | 2 {
  const magic = LayerHeader.magic.get(header, 0)
  if (magic !== LAYER_MAGIC) throw damagedLayer(name, `header has magic 0x${magic.toString(16)}`)
  const version = LayerHeader.version.get(header, 0)
  if (version !== 1 && version !== LAYER_VERSION) {
    throw fail(
      'bad_file',
      `layer "${name}" has version ${version}, this program reads 1 to ${LAYER_VERSION}`,
      {
        hint: 'Run the version of the program that wrote it.',
      },
    )
  }
  checkCrc(name, header, LayerHeader.SIZE - 4, LayerHeader.crc.get(header, 0), 'header at byte 0')
  const kind = LayerHeader.kind.get(header, 0)
  if (kind !== LAYER_KIND_DELTA && kind !== LAYER_KIND_IMAGE)
    throw damagedLayer(name, `header has kind ${kind}`)
  const tenantId = Buffer.from(LayerHeader.tenantId.get(header, 0)).toString('hex')
  const timelineId = Buffer.from(LayerHeader.timelineId.get(header, 0)).toString('hex')
  const number = LayerHeader.shardNumber.get(header, 0)
  const count = LayerHeader.shardCount.get(header, 0)
  const stripeBlocks = LayerHeader.stripeBlocks.get(header, 0)
  const { shard } = owner
  if (
    tenantId !== owner.tenantId ||
    timelineId !== owner.timelineId ||
    number !== shard.number ||
    count !== shard.count ||
    stripeBlocks !== shard.stripeBlocks ||
    LayerHeader.headerBytes.get(header, 0) !== LayerHeader.SIZE
  ) {
    const whose = `tenant ${tenantId}, timeline ${timelineId}, shard ${number} of ${count}`
    throw damagedLayer(name, `it belongs to ${whose} with stripes of ${stripeBlocks} blocks`)
  }
  return version
}

const keyOf = (encoded: Uint8Array): Key => readKey(viewOf(encoded), 0)

function checkCrc(name: string, view: DataView, length: number, expected: number, where: string): void {
  if (crc32c(new Uint8Array(view.buffer, view.byteOffset, length)) !== expected)
    throw damagedLayer(name, `${where} fails its checksum`)
}

async function readExactly(source: LayerSource, offset: number, length: number): Promise<Uint8Array> {
  const bytes = await source.read(offset, length)
  if (bytes.length !== length) {
    throw damagedLayer(
      source.name,
      `it is cut short: ${bytes.length} of ${length} bytes are at byte ${offset}`,
    )
  }
  return bytes
}
