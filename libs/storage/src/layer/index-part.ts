/**
 * What a shard consists of, as one JSON document: in the object store one per generation, locally one. A layer that
 * it lists was durable in the same place before. `version` 1. Below the prefix of the shard (libs/protocol):
 *
 *   index_part-<generation, 8 hex digits>.json
 *   <layer name>
 */
import { DOCUMENT_READER, formatLsn, parseLsn, parseTenantId, parseTimelineId, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { PgMajor } from '@understory/postgres/wal'
import type { History } from '../compaction/history.ts'
import { LAYER_KIND_DELTA, LAYER_KIND_IMAGE, LAYER_NAME } from './layer-format.ts'
import type { LayerKind, LayerOwner } from './layer-format.ts'

type Json = Readonly<Record<string, unknown>>

const ROOT_FIELDS: ReadonlySet<string> = new Set([
  'version',
  'tenantId',
  'timelineId',
  'shard',
  'generation',
  'postgres',
  'startLsn',
  'readableLsn',
  'consistentLsn',
  'imageGeneration',
  'imageWish',
  'nextSequence',
  'layers',
  'history',
  'retiredLayers',
  'isCopy',
])
const LAYER_FIELDS: ReadonlySet<string> = new Set(['name', 'kind', 'sizeBytes', 'crc32c', 'lsnMin', 'lsnMax'])

export interface LayerEntry {
  readonly name: string
  readonly kind: LayerKind
  readonly sizeBytes: number
  /** CRC-32C of the whole file. */
  readonly crc: number
  readonly lsnMin: Lsn
  readonly lsnMax: Lsn
  /** Fields of a newer program, kept as they are (`keepUnknown` has the rules). */
  readonly unknown?: Json
}

export interface ImageGenerationSettings {
  readonly enabled: boolean
  /** 1 to 10,000. */
  readonly thresholdRecords: number
}

export interface IndexPart {
  readonly owner: LayerOwner
  readonly generation: number
  readonly postgres: PostgresIdentity
  /** Where ingest began; 0 while an import is awaited. */
  readonly startLsn: Lsn
  /** No read below. */
  readonly readableLsn: Lsn
  /** Everything before is in the layers listed. */
  readonly consistentLsn: Lsn
  readonly imageGeneration: ImageGenerationSettings
  /** Number of the request that `imageGeneration` follows from, where there was one; `imageWish` in the file. */
  readonly imageGenerationRevision?: number
  /** Number of the next layer. */
  readonly nextSequence: number
  /** Oldest first. */
  readonly layers: readonly LayerEntry[]
  readonly history?: History
  /** Names of layers that have left the index: their objects are still to be removed. */
  readonly retiredLayers?: readonly string[]
  /** It is that of an older generation, published under a newer one which has not made its own yet. */
  readonly isCopy?: boolean
  /** Fields of a newer program, kept as they are. */
  readonly unknown?: Json
}

const hex8 = (value: number): string => value.toString(16).padStart(8, '0')
export const indexPartName = (generation: number): string => `index_part-${hex8(generation)}.json`
/** The generation in the name of an index part, or undefined for other names. */
export function generationOfIndexPart(name: string): number | undefined {
  const match = /(?:^|\/)index_part-([0-9a-f]{8})\.json$/.exec(name)
  return match === null ? undefined : Number.parseInt(match[1] as string, 16)
}

export function encodeIndexPart(part: IndexPart): Buffer {
  const { owner, postgres } = part
  const document = {
    ...part.unknown,
    version: 1,
    tenantId: owner.tenantId,
    timelineId: owner.timelineId,
    shard: { number: owner.shard.number, count: owner.shard.count, stripeBlocks: owner.shard.stripeBlocks },
    generation: part.generation,
    postgres: {
      major: postgres.major,
      systemId: String(postgres.systemId),
      pgTimelineId: postgres.pgTimelineId,
      walSegmentBytes: postgres.walSegmentBytes,
    },
    startLsn: formatLsn(part.startLsn),
    readableLsn: formatLsn(part.readableLsn),
    consistentLsn: formatLsn(part.consistentLsn),
    imageGeneration: part.imageGeneration,
    imageWish: part.imageGenerationRevision ?? 0,
    nextSequence: part.nextSequence,
    layers: part.layers.map(({ name, kind, sizeBytes, crc, lsnMin, lsnMax, unknown }) => ({
      ...unknown,
      name,
      kind: kind === LAYER_KIND_DELTA ? 'delta' : 'image',
      sizeBytes,
      crc32c: hex8(crc),
      lsnMin: formatLsn(lsnMin),
      lsnMax: formatLsn(lsnMax),
    })),
    ...(part.history === undefined ? {} : { history: encodeHistory(part.history) }),
    ...((part.retiredLayers ?? []).length === 0 ? {} : { retiredLayers: part.retiredLayers }),
    ...(part.isCopy === true ? { isCopy: true } : {}),
  }
  return Buffer.from(`${JSON.stringify(document, undefined, 1)}\n`)
}

const encodeHistory = ({ clockMs, samples }: History) => ({
  clockMs: Math.floor(clockMs),
  samples: samples.map(({ lsn, atMs }) => ({ lsn: formatLsn(lsn), atMs: Math.floor(atMs) })),
})

/**
 * `name` is for messages. Errors: `bad_file` where the document is not what this version writes, or is of another
 * shard than `owner` (or another generation, where one is given): a copy under a wrong name must not be served.
 */
export function parseIndexPart(
  bytes: Uint8Array,
  name: string,
  owner: LayerOwner,
  generation?: number,
): IndexPart {
  const part = parseDocument(bytes, name)
  const [found, wanted] = [describeOwner(part.owner), describeOwner(owner)]
  if (found === wanted && (generation === undefined || part.generation === generation)) return part
  const mismatch =
    found === wanted ? `generation ${part.generation}, not ${generation}` : `${found}, not ${wanted}`
  throw fail('bad_file', `index "${name}" is of ${mismatch}`, {
    hint: 'It was copied under a wrong name: put the one back that belongs there.',
  })
}

const describeOwner = ({ tenantId, timelineId, shard }: LayerOwner): string =>
  `shard ${shard.number} of ${shard.count}, stripes of ${shard.stripeBlocks} blocks, of timeline ${timelineId} of tenant ${tenantId}`

function parseDocument(bytes: Uint8Array, name: string): IndexPart {
  try {
    return parse(JSON.parse(Buffer.from(bytes).toString('utf8')))
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw fail('bad_file', `index "${name}" is damaged: ${reason}`, {
      hint: 'Remove a damaged local index so that the shard is loaded from the object store; restore a damaged object.',
      cause,
    })
  }
}

function parse(document: unknown): IndexPart {
  const root = object(document, 'document')
  if (root['version'] !== 1) throw new Error(`version ${String(root['version'])} is not 1`)
  if (root['minReader'] !== undefined) integer(root, 'minReader', 1, DOCUMENT_READER)
  const shard = object(root['shard'], 'shard')
  const postgres = object(root['postgres'], 'postgres')
  const images = object(root['imageGeneration'], 'imageGeneration')
  const major = integer(postgres, 'major', 16, 18) as PgMajor
  const count = integer(shard, 'count', 1, 256)
  if (!Array.isArray(root['layers'])) throw new Error('"layers" is not a list')
  if (typeof images['enabled'] !== 'boolean') throw new Error('"enabled" is not true or false')
  const systemId = string(postgres, 'systemId')
  if (!/^\d{1,20}$/.test(systemId)) throw new Error(`"systemId" is "${systemId}"`)
  return {
    owner: {
      tenantId: parseTenantId(string(root, 'tenantId')),
      timelineId: parseTimelineId(string(root, 'timelineId')),
      shard: {
        number: integer(shard, 'number', 0, count - 1),
        count,
        stripeBlocks: integer(shard, 'stripeBlocks', 1, 2 ** 20),
      },
    },
    generation: integer(root, 'generation', 0, 0xffff_ffff),
    postgres: {
      major,
      systemId: BigInt(systemId),
      pgTimelineId: integer(postgres, 'pgTimelineId', 0, 0xffff_ffff),
      walSegmentBytes: integer(postgres, 'walSegmentBytes', 1, 2 ** 30),
    },
    startLsn: parseLsn(string(root, 'startLsn')),
    readableLsn: parseLsn(string(root, 'readableLsn')),
    consistentLsn: parseLsn(string(root, 'consistentLsn')),
    imageGeneration: {
      enabled: images['enabled'],
      thresholdRecords: integer(images, 'thresholdRecords', 1, 10_000),
    },
    // Documents of before it was there have none.
    imageGenerationRevision:
      root['imageWish'] === undefined ? 0 : integer(root, 'imageWish', 0, Number.MAX_SAFE_INTEGER),
    nextSequence: integer(root, 'nextSequence', 0, 0xffff_ffff),
    layers: root['layers'].map(parseLayer),
    ...(root['history'] === undefined ? {} : { history: parseHistory(root['history']) }),
    ...(root['retiredLayers'] === undefined ? {} : { retiredLayers: layerNames(root['retiredLayers']) }),
    ...(root['isCopy'] === undefined ? {} : { isCopy: root['isCopy'] === true }),
    ...unknownOf(root, ROOT_FIELDS),
  }
}

function parseHistory(document: unknown): History {
  const history = object(document, 'history')
  const { samples } = history
  if (!Array.isArray(samples)) throw new Error('"samples" is not a list')
  const time = (from: Json, name: string): number => integer(from, name, 0, Number.MAX_SAFE_INTEGER)
  return {
    clockMs: time(history, 'clockMs'),
    samples: samples.map((each) => {
      const sample = object(each, 'sample')
      return { lsn: parseLsn(string(sample, 'lsn')), atMs: time(sample, 'atMs') }
    }),
  }
}

function layerNames(document: unknown): string[] {
  if (!Array.isArray(document)) throw new Error('"retiredLayers" is not a list')
  return document.map((name: unknown) => {
    if (typeof name !== 'string' || !LAYER_NAME.test(name))
      throw new Error(`layer name "${String(name)}" is malformed`)
    return name
  })
}

function parseLayer(document: unknown): LayerEntry {
  const layer = object(document, 'layer')
  const name = string(layer, 'name')
  if (!LAYER_NAME.test(name)) throw new Error(`layer name "${name}" is malformed`)
  const kind = string(layer, 'kind')
  if (kind !== 'delta' && kind !== 'image') throw new Error(`layer kind "${kind}" is unknown`)
  const crc = string(layer, 'crc32c')
  if (!/^[0-9a-f]{8}$/.test(crc)) throw new Error(`layer checksum "${crc}" is malformed`)
  return {
    name,
    kind: kind === 'delta' ? LAYER_KIND_DELTA : LAYER_KIND_IMAGE,
    sizeBytes: integer(layer, 'sizeBytes', 1, 0xffff_ffff),
    crc: Number.parseInt(crc, 16),
    lsnMin: parseLsn(string(layer, 'lsnMin')),
    lsnMax: parseLsn(string(layer, 'lsnMax')),
    ...unknownOf(layer, LAYER_FIELDS),
  }
}

/** The fields that this program does not know, if there are any. */
function unknownOf(from: Json, known: ReadonlySet<string>): { readonly unknown?: Json } {
  const fields = Object.entries(from).filter(([name]) => !known.has(name))
  return fields.length === 0 ? {} : { unknown: Object.fromEntries(fields) }
}

function object(value: unknown, what: string): Json {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`"${what}" is not an object`)
  return value as Json
}
function string(from: Json, name: string): string {
  const value = from[name]
  if (typeof value !== 'string') throw new Error(`"${name}" is not a text`)
  return value
}
function integer(from: Json, name: string, min: number, max: number): number {
  const value = from[name]
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    throw new Error(`"${name}" is not a whole number from ${min} to ${max}`)
  }
  return value
}
