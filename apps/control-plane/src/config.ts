/** Settings of the control plane. */
import { text, wholeNumber } from '@understory/env'
import { COMMON, loopback } from '@understory/service'

export const CONFIG = {
  nodeId: { ...COMMON.nodeId, fallback: 'control-plane-1' },
  listen: { ...COMMON.listen, fallback: loopback(7400), help: 'address of the gRPC API' },
  advertise: COMMON.advertise,
  healthListen: COMMON.healthListen,
  metricsListen: { ...COMMON.listen, fallback: loopback(7480), help: 'address of /metrics' },
  objectStore: COMMON.objectStore,
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
  logLevel: COMMON.logLevel,
} as const
