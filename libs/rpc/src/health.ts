/**
 * grpc.health.v1.Health, which supervisors ask: Kubernetes by its `grpc:` probes. Its two messages are one field each,
 * so they are read and written here by hand. Source: grpc/health/v1/health.proto of the gRPC project.
 */
import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire'
import type { ServiceDefinition } from '@grpc/grpc-js'

/** Whether a service is fit to serve; undefined where no such service is known. The whole server's name is ''. */
export type HealthCheck = (service: string) => boolean | undefined

export interface HealthRequest {
  readonly service: string
}
interface HealthResponse {
  readonly status: number
}

export const HEALTH_SERVING = 1
export const HEALTH_NOT_SERVING = 2

const TAG_SERVICE = 10
const TAG_STATUS = 8

function readField<T>(bytes: Buffer, wanted: number, read: (reader: BinaryReader) => T, absent: T): T {
  const reader = new BinaryReader(bytes)
  let value = absent
  while (reader.pos < reader.len) {
    const tag = reader.uint32()
    if (tag === wanted) value = read(reader)
    else reader.skip(tag & 7)
  }
  return value
}

/** `Check` alone: `Watch` is for clients that balance load. */
export const HealthService = {
  check: {
    path: '/grpc.health.v1.Health/Check',
    requestStream: false,
    responseStream: false,
    requestSerialize: ({ service }: HealthRequest): Buffer =>
      Buffer.from(new BinaryWriter().uint32(TAG_SERVICE).string(service).finish()),
    requestDeserialize: (bytes: Buffer): HealthRequest => ({
      service: readField(bytes, TAG_SERVICE, (reader) => reader.string(), ''),
    }),
    responseSerialize: ({ status }: HealthResponse): Buffer =>
      Buffer.from(new BinaryWriter().uint32(TAG_STATUS).int32(status).finish()),
    responseDeserialize: (bytes: Buffer): HealthResponse => ({
      status: readField(bytes, TAG_STATUS, (reader) => reader.int32(), 0),
    }),
  },
} satisfies ServiceDefinition
