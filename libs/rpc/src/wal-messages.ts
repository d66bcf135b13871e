/**
 * The messages that carry all WAL, written in one allocation of the right size and read without a copy; the fields are
 * those of the generated code, the WAL last. The generated code would copy every WAL byte four times on each of its
 * ways through a process.
 */
import { BinaryReader } from '@bufbuild/protobuf/wire'
import { makeGenericClientConstructor } from '@grpc/grpc-js'
import {
  AppendRequest,
  FollowWalBatch,
  FollowWalResponse,
  ProposeRequest,
  SafekeeperServiceClient as GeneratedClient,
  SafekeeperServiceService as GeneratedService,
  SubscribeWalResponse,
} from './gen/understory/v1/safekeeper.ts'

const WIRE_LENGTH_DELIMITED = 2
const PROPOSE_APPEND_FIELD = 4
const APPEND_WAL_FIELD = 5
const SUBSCRIBE_ENTRIES_FIELD = 4
const FOLLOW_BATCH_FIELD = 2
const FOLLOW_ENTRIES_FIELD = 6
const EMPTY = Buffer.alloc(0)

/** Of a field below 16 whose value has a length. */
const tagOf = (field: number): number => (field << 3) | WIRE_LENGTH_DELIMITED

/** Bytes of a varint; lengths stay below 2^31. */
function varintBytes(value: number): number {
  let count = 1
  for (let rest = value; rest > 0x7f; rest >>>= 7) count++
  return count
}
function writeVarint(to: Buffer, at: number, value: number): number {
  let rest = value
  let next = at
  for (; rest > 0x7f; rest >>>= 7) to[next++] = (rest & 0x7f) | 0x80
  to[next++] = rest
  return next
}

/** `before`, then the field with `bytes`; all of it as the field `outer` of a message, where that is given. */
function join(before: Uint8Array, field: number, bytes: Uint8Array, outer?: number): Buffer {
  const innerBytes = before.length + 1 + varintBytes(bytes.length) + bytes.length
  const outerBytes = outer === undefined ? 0 : 1 + varintBytes(innerBytes)
  const message = Buffer.allocUnsafe(outerBytes + innerBytes)
  let at = 0
  if (outer !== undefined) {
    message[at++] = tagOf(outer)
    at = writeVarint(message, at, innerBytes)
  }
  message.set(before, at)
  at += before.length
  message[at++] = tagOf(field)
  at = writeVarint(message, at, bytes.length)
  message.set(bytes, at)
  return message
}

export function serializeProposeRequest(request: ProposeRequest): Buffer {
  const { message } = request
  if (message?.$case !== 'append' || message.value.wal.length === 0)
    return Buffer.from(ProposeRequest.encode(request).finish())
  const { value } = message
  const before = AppendRequest.encode({ ...value, wal: EMPTY }).finish()
  return join(before, APPEND_WAL_FIELD, value.wal, PROPOSE_APPEND_FIELD)
}

export function serializeSubscribeWalResponse(response: SubscribeWalResponse): Buffer {
  const before = SubscribeWalResponse.encode({ ...response, entries: EMPTY }).finish()
  return response.entries.length === 0
    ? Buffer.from(before)
    : join(before, SUBSCRIBE_ENTRIES_FIELD, response.entries)
}

export function serializeFollowWalResponse(response: FollowWalResponse): Buffer {
  const { message } = response
  if (message?.$case !== 'batch' || message.value.entries.length === 0)
    return Buffer.from(FollowWalResponse.encode(response).finish())
  const { value } = message
  const before = FollowWalBatch.encode({ ...value, entries: EMPTY }).finish()
  return join(before, FOLLOW_ENTRIES_FIELD, value.entries, FOLLOW_BATCH_FIELD)
}

/** The message without its field `field`, and that field's bytes, borrowed; undefined where it is not the last one. */
function split(message: Buffer, field: number): { before: Buffer; bytes: Buffer } | undefined {
  const reader = new BinaryReader(message)
  while (reader.pos < reader.len) {
    const at = reader.pos
    const tag = reader.uint32()
    if (tag !== tagOf(field)) {
      reader.skip(tag & 7, tag >>> 3)
      continue
    }
    const size = reader.uint32()
    if (reader.pos + size !== message.length) return undefined
    return { before: message.subarray(0, at), bytes: message.subarray(reader.pos) }
  }
  return undefined
}

/** Borrows the WAL from `bytes`. */
export function deserializeProposeRequest(bytes: Buffer): ProposeRequest {
  const append = bytes[0] === tagOf(PROPOSE_APPEND_FIELD) ? split(bytes, PROPOSE_APPEND_FIELD) : undefined
  const parts = append === undefined ? undefined : split(append.bytes, APPEND_WAL_FIELD)
  if (parts === undefined) return ProposeRequest.decode(bytes)
  const value = { ...AppendRequest.decode(parts.before), wal: parts.bytes }
  return { message: { $case: 'append', value } }
}

/** Borrows the entries from `bytes`. */
export function deserializeSubscribeWalResponse(bytes: Buffer): SubscribeWalResponse {
  const parts = split(bytes, SUBSCRIBE_ENTRIES_FIELD)
  if (parts === undefined) return SubscribeWalResponse.decode(bytes)
  return { ...SubscribeWalResponse.decode(parts.before), entries: parts.bytes }
}

/** Borrows the entries from `bytes`. */
export function deserializeFollowWalResponse(bytes: Buffer): FollowWalResponse {
  const batch = bytes[0] === tagOf(FOLLOW_BATCH_FIELD) ? split(bytes, FOLLOW_BATCH_FIELD) : undefined
  const parts = batch === undefined ? undefined : split(batch.bytes, FOLLOW_ENTRIES_FIELD)
  if (parts === undefined) return FollowWalResponse.decode(bytes)
  const value = { ...FollowWalBatch.decode(parts.before), entries: parts.bytes }
  return { message: { $case: 'batch', value } }
}

export const SafekeeperServiceService = {
  ...GeneratedService,
  propose: {
    ...GeneratedService.propose,
    requestSerialize: serializeProposeRequest,
    requestDeserialize: deserializeProposeRequest,
  },
  followWal: {
    ...GeneratedService.followWal,
    responseSerialize: serializeFollowWalResponse,
    responseDeserialize: deserializeFollowWalResponse,
  },
  subscribeWal: {
    ...GeneratedService.subscribeWal,
    responseSerialize: serializeSubscribeWalResponse,
    responseDeserialize: deserializeSubscribeWalResponse,
  },
} as const

export type SafekeeperServiceClient = GeneratedClient
export const SafekeeperServiceClient = makeGenericClientConstructor(
  SafekeeperServiceService,
  'understory.v1.SafekeeperService',
) as unknown as typeof GeneratedClient
