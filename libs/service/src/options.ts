/**
 * Options that services have in common, as rows for their `config.ts`. Where one has a default of its own it is spread
 * with it: `{ ...COMMON.nodeId, fallback: 'safekeeper-1' }`.
 */
import { LOG_LEVELS, hostPort, oneOf, text } from '@understory/env'

export const COMMON = {
  nodeId: { read: text, placeholder: 'ID', help: 'name of this process' },
  listen: { read: hostPort, placeholder: 'HOST:PORT', help: 'address of the gRPC service' },
  advertise: {
    read: text,
    optional: true,
    placeholder: 'HOST:PORT',
    help: 'where others find this process (by default where it listens)',
  },
  healthListen: {
    read: hostPort,
    optional: true,
    placeholder: 'HOST:PORT',
    help: 'where probes are answered in plain text, beside the gRPC service',
  },
  metricsListen: {
    read: hostPort,
    optional: true,
    placeholder: 'HOST:PORT',
    help: 'where /metrics is served; nowhere by default',
  },
  broker: {
    read: text,
    optional: true,
    placeholder: 'URL',
    help: 'where to announce this process: redis://host:port or grpc://host:port',
  },
  objectStore: {
    read: text,
    placeholder: 'URL',
    help: 'a directory, or s3://bucket/prefix?endpoint=URL&region=NAME',
  },
  logLevel: {
    read: oneOf(...LOG_LEVELS),
    fallback: 'info',
    placeholder: 'LEVEL',
    help: 'least level logged',
  },
} as const

/** A default of `listen`. */
export const loopback = (port: number): { readonly host: string; readonly port: number } => ({
  host: '127.0.0.1',
  port,
})
