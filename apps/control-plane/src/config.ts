/** Settings of the control plane. */
import { hostPort, oneOf, text, wholeNumber } from '@understory/env'

export const CONFIG = {
  nodeId: { read: text, fallback: 'control-plane-1', placeholder: 'ID', help: 'name of this process' },
  listen: {
    read: hostPort,
    fallback: { host: '127.0.0.1', port: 7400 },
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
    fallback: { host: '127.0.0.1', port: 7480 },
    placeholder: 'HOST:PORT',
    help: 'address of /metrics',
  },
  objectStore: {
    read: text,
    placeholder: 'URL',
    help: 'a directory, or s3://bucket/prefix?endpoint=URL&region=NAME',
  },
  broker: {
    read: text,
    fallback: 'embedded',
    placeholder: 'URL',
    help: 'redis://host:port, or embedded: served by this process',
  },
  computePods: {
    read: text,
    optional: true,
    placeholder: 'FILE',
    help: 'how pods of computes are made: computes run on Kubernetes (by default on announced compute hosts)',
  },
  replaceAfterMs: {
    read: wholeNumber(0, 7 * 24 * 3_600_000),
    fallback: 900_000,
    placeholder: 'MS',
    help: 'a safekeeper that is away or damaged for so long is replaced, where another is free; 0 = never',
  },
  leaseMs: {
    read: wholeNumber(500, 600_000),
    fallback: 10_000,
    placeholder: 'MS',
    help: 'another control plane over the same store takes over from one that was silent for so long',
  },
  logLevel: {
    read: oneOf('error', 'warn', 'info', 'debug'),
    fallback: 'info',
    placeholder: 'LEVEL',
    help: 'least level logged',
  },
} as const
