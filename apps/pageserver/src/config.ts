/** Settings of a pageserver. */
import { text, wholeNumber } from '@understory/env'
import { COMMON, loopback } from '@understory/service'

export const CONFIG = {
  nodeId: { ...COMMON.nodeId, fallback: 'pageserver-1' },
  listen: { ...COMMON.listen, fallback: loopback(7420), help: 'address of the gRPC API' },
  advertise: COMMON.advertise,
  healthListen: COMMON.healthListen,
  metricsListen: COMMON.metricsListen,
  dataDir: {
    read: text,
    placeholder: 'DIR',
    help: 'local layers; may be lost, the object store has everything flushed',
  },
  objectStore: COMMON.objectStore,
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
  historyWindowS: {
    read: wholeNumber(10, 3_155_760_000),
    fallback: 86_400,
    placeholder: 'SECONDS',
    help: 'how long every LSN of a timeline stays readable; older history is merged',
  },
  blockCacheMib: {
    read: wholeNumber(1, 65_536),
    fallback: 128,
    placeholder: 'MIB',
    help: 'decompressed blocks of layers kept; a quarter more for parts of objects',
  },
  layerFilesMib: {
    read: wholeNumber(0, 1_073_741_824),
    fallback: 0,
    placeholder: 'MIB',
    help: 'disk for layers; colder ones are read from the object store; 0: all but the last of the disk',
  },
  logLevel: COMMON.logLevel,
} as const
