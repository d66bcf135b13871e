/** Settings of a pageserver. */
import { hostPort, oneOf, text, wholeNumber } from '@understory/env'

export const CONFIG = {
  nodeId: { read: text, fallback: 'pageserver-1', placeholder: 'ID', help: 'name of this process' },
  listen: {
    read: hostPort,
    fallback: { host: '127.0.0.1', port: 7420 },
    placeholder: 'HOST:PORT',
    help: 'address of the gRPC API',
  },
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
  dataDir: {
    read: text,
    placeholder: 'DIR',
    help: 'local layers; may be lost, the object store has everything flushed',
  },
  objectStore: {
    read: text,
    placeholder: 'URL',
    help: 'a directory, or s3://bucket/prefix?endpoint=URL&region=NAME',
  },
  broker: {
    read: text,
    placeholder: 'URL',
    help: 'redis://host:port, or grpc://host:port of the control plane',
  },
  imageThreads: {
    read: wholeNumber(1, 64),
    fallback: 1,
    placeholder: 'COUNT',
    help: 'threads that make page images',
  },
  openLayerMib: {
    read: wholeNumber(1, 1024),
    fallback: 64,
    placeholder: 'MIB',
    help: 'WAL kept in memory per shard before it becomes a layer',
  },
  openLayerAgeS: {
    read: wholeNumber(1, 86_400),
    fallback: 180,
    placeholder: 'SECONDS',
    help: 'age at which a smaller one becomes a layer',
  },
  blockCacheMib: {
    read: wholeNumber(1, 65_536),
    fallback: 128,
    placeholder: 'MIB',
    help: 'decompressed blocks of layers kept',
  },
  logLevel: {
    read: oneOf('error', 'warn', 'info', 'debug'),
    fallback: 'info',
    placeholder: 'LEVEL',
    help: 'least level logged',
  },
} as const
