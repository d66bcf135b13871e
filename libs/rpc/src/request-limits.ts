/**
 * How large a request may be, by RPC, decided on its bytes before they are decoded. An empty sub-message has two bytes
 * and becomes an object: a request that holds nothing else takes 25 times its size as objects (256 KiB take 6 MiB, 4
 * MiB 100 MiB, 32 MiB 800 MiB and the process 4 to 20 s). Bounded is therefore what a request holds besides its bulk,
 * which are fields such as WAL whose bytes become no objects. Each occurrence of such a field counts with its tag and
 * length.
 */
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire'
import { UnderstoryError, fail } from '@understory/base'
import type { ServiceDefinition } from '@grpc/grpc-js'

/** Largest message of all, either way: a batch of pages or WAL is far below. */
export const MESSAGE_BYTES_MAX = 32 * 1024 * 1024

/** Fields by number: bulk, or a message that has some. */
interface BulkFields {
  readonly [field: number]: 'bulk' | BulkFields
}

export interface RequestLimits {
  /** Whole message. */
  readonly bytesMax: number
  /** Bytes besides its bulk. */
  readonly plainBytesMax: number
  readonly bulk: BulkFields
}

const KIB = 1024
const MIB = 1024 * KIB
const PLAIN: RequestLimits = { bytesMax: 256 * KIB, plainBytesMax: 256 * KIB, bulk: {} }

const LIMITS: Readonly<Record<string, RequestLimits>> = {
  // Any client may send one: it has the name of a service.
  '/grpc.health.v1.Health/Check': { bytesMax: 1 * KIB, plainBytesMax: 1 * KIB, bulk: {} },
  // The WAL of an append; the terms of an election, of which a timeline gets one with each start of its compute.
  '/understory.v1.SafekeeperService/Propose': {
    bytesMax: MESSAGE_BYTES_MAX,
    plainBytesMax: 1 * MIB,
    bulk: { 3: { 3: 'bulk' }, 4: { 5: 'bulk' } },
  },
  '/understory.v1.PageserverService/ImportShard': {
    bytesMax: MESSAGE_BYTES_MAX,
    plainBytesMax: 256 * KIB,
    bulk: { 2: 'bulk' },
  },
  // The content of configuration files, twice.
  '/understory.v1.ComputeHostService/EnsureCompute': {
    bytesMax: 4 * MIB,
    plainBytesMax: 256 * KIB,
    bulk: { 2: { 2: { 2: 'bulk' }, 3: { 2: 'bulk' } } },
  },
}

/** `path` is `/package.Service/Method`. */
export const limitsOf = (path: string): RequestLimits => LIMITS[path] ?? PLAIN

/**
 * Bytes of the message that are not the value of a bulk field. Error: that of the reader where the bytes are not a
 * message.
 */
function plainBytes(message: Uint8Array, fields: BulkFields): number {
  const reader = new BinaryReader(message)
  let plain = message.length
  while (reader.pos < reader.len) {
    const tag = reader.uint32()
    const [field, wireType] = [tag >>> 3, tag & 7]
    const kind = fields[field]
    if (kind === undefined || wireType !== WireType.LengthDelimited) {
      reader.skip(wireType, field)
      continue
    }
    const value = reader.bytes()
    plain -= kind === 'bulk' ? value.length : value.length - plainBytes(value, kind)
  }
  return plain
}

/** Stands for a request that was refused before it was decoded. */
export class RefusedRequest {
  readonly error: UnderstoryError
  constructor(error: UnderstoryError) {
    this.error = error
  }
}

function decode(path: string, decodeWhole: (bytes: Buffer) => unknown, bytes: Buffer): unknown {
  const { plainBytesMax, bulk } = limitsOf(path)
  if (bytes.length <= plainBytesMax || plainBytes(bytes, bulk) <= plainBytesMax) return decodeWhole(bytes)
  const text = `a message to ${path.slice(1)} may have ${plainBytesMax} bytes besides its bulk data`
  return new RefusedRequest(
    fail('out_of_range', text, {
      detail: `this one has ${bytes.length} bytes in all`,
      hint: 'Send fewer entries.',
    }),
  )
}

/**
 * The service whose requests are checked before they are decoded: a `RefusedRequest` comes out for one that is too
 * large.
 */
export function limitRequests(definition: ServiceDefinition): ServiceDefinition {
  return Object.fromEntries(
    Object.entries(definition).map(([name, method]) => [
      name,
      {
        ...method,
        requestDeserialize: (bytes: Buffer) => decode(method.path, method.requestDeserialize, bytes),
      },
    ]),
  )
}
