/** Settings of a safekeeper. */
import { text, wholeNumber } from '@understory/env'
import { COMMON, loopback } from '@understory/service'

export const CONFIG = {
  nodeId: { ...COMMON.nodeId, fallback: 'safekeeper-1' },
  listen: { ...COMMON.listen, fallback: loopback(7500) },
  advertise: COMMON.advertise,
  healthListen: COMMON.healthListen,
  metricsListen: COMMON.metricsListen,
  dataDir: { read: text, placeholder: 'DIR', help: 'folder of the WAL, made if it is not there' },
  broker: COMMON.broker,
  objectStore: {
    read: text,
    optional: true,
    placeholder: 'URL',
    help: 'where WAL is kept for good: a directory, or s3://bucket/prefix?endpoint=URL&region=NAME',
  },
  keepWalMib: {
    read: wholeNumber(32, 1_048_576),
    fallback: 256,
    placeholder: 'MIB',
    help: 'committed WAL of each timeline that stays here though the object store has it',
  },
  timelineQuotaMib: {
    read: wholeNumber(64, 1_073_741_824),
    optional: true,
    placeholder: 'MIB',
    help: 'WAL of one timeline that may be kept here; more is refused until some is released; it must exceed the largest WAL record, of which nothing is released before it is whole',
  },
  nodeQuotaMib: {
    read: wholeNumber(64, 1_073_741_824),
    optional: true,
    placeholder: 'MIB',
    help: 'the same, of all timelines together',
  },
  offloadQuietS: {
    read: wholeNumber(1, 86_400),
    fallback: 60,
    placeholder: 'SECONDS',
    help: 'after so long without a commit the last, partial segment is stored too',
  },
  offloadTakeOverS: {
    read: wholeNumber(1, 3_600),
    fallback: 10,
    placeholder: 'SECONDS',
    help: 'how long a safekeeper waits for the one before it to store a segment',
  },
  logLevel: COMMON.logLevel,
} as const
