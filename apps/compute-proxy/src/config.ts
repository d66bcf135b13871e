/** Settings of the three commands. */
import { oneOf, text, wholeNumber } from '@understory/env'
import { COMMON, loopback } from '@understory/service'

const contactTimeoutMs = {
  read: wholeNumber(2_000, 3_600_000),
  fallback: 30_000,
  placeholder: 'MS',
  help: 'a compute without contact to a majority of its safekeepers for so long stops its Postgres',
} as const

const adoptionGraceMs = {
  read: wholeNumber(0, 60_000),
  fallback: 5_000,
  placeholder: 'MS',
  help: 'a Postgres whose compute-proxy died is ended after so long, unless the next one has adopted it; 0: at once',
} as const

const ingestLagLimitMib = {
  read: wholeNumber(1, 16_777_216),
  fallback: 512,
  placeholder: 'MIB',
  help: 'commits are slowed from half of so much WAL on that a shard is behind, down to 64 KiB of WAL a second',
} as const

const binaries = (major: number) =>
  ({
    read: text,
    optional: true,
    placeholder: 'DIR',
    help: `folder of initdb and postgres of version ${major}`,
  }) as const

/** `compute-proxy host`: runs computes. */
export const HOST_CONFIG = {
  nodeId: { ...COMMON.nodeId, fallback: 'compute-host-1' },
  listen: { ...COMMON.listen, fallback: loopback(7700) },
  dataDir: {
    read: text,
    placeholder: 'DIR',
    help: 'folder of the computes; their Postgres users must be able to enter it',
  },
  broker: COMMON.broker,
  'postgresBin-16': binaries(16),
  'postgresBin-17': binaries(17),
  'postgresBin-18': binaries(18),
  metricsListen: COMMON.metricsListen,
  contactTimeoutMs,
  ingestLagLimitMib,
  adoptionGraceMs,
  logLevel: COMMON.logLevel,
} as const

/** `compute-proxy run`: one compute, started by a host. */
export const RUN_CONFIG = {
  nodeId: { ...COMMON.nodeId, help: 'name of the host' },
  spec: { read: text, placeholder: 'BASE64', help: 'the compute spec' },
  root: { read: text, placeholder: 'DIR', help: "the compute's own folder" },
  bin: { read: text, placeholder: 'DIR', help: 'folder of initdb and postgres' },
  postgresUid: {
    read: wholeNumber(1_000, 2_147_483_647),
    optional: true,
    placeholder: 'UID',
    help: 'user and group of Postgres, where this process is root: of this timeline alone',
  },
  restartAfterFencing: {
    read: oneOf('yes', 'no'),
    fallback: 'no',
    placeholder: 'yes|no',
    help: 'whether it takes the lead although another compute has fenced it since it last ran',
  },
  metricsListen: COMMON.metricsListen,
  contactTimeoutMs,
  ingestLagLimitMib,
  adoptionGraceMs,
  logLevel: COMMON.logLevel,
} as const

/** `compute-proxy pod`: the compute of a Kubernetes pod, whose Postgres is a container beside this one. */
export const POD_CONFIG = {
  nodeId: { ...COMMON.nodeId, help: 'name of the pod' },
  timeline: { read: text, placeholder: 'ID', help: 'the only timeline that may run here' },
  listen: { ...COMMON.listen, fallback: { host: '0.0.0.0', port: 7700 } },
  healthListen: COMMON.healthListen,
  advertise: { read: text, placeholder: 'HOST', help: 'where others find it: the address of the pod' },
  sharedDir: {
    read: text,
    placeholder: 'DIR',
    help: 'folder in which the container of Postgres writes too: its data directory and sockets',
  },
  ordersDir: {
    read: text,
    placeholder: 'DIR',
    help: 'folder that the container of Postgres has read-only: what it is asked to do',
  },
  ownDir: { read: text, placeholder: 'DIR', help: 'folder that the container of Postgres does not have' },
  sqlHost: { read: text, placeholder: 'HOST', help: 'name of the service of this Postgres' },
  stopDeadlineMs: {
    read: wholeNumber(1_000, 3_600_000),
    fallback: 45_000,
    placeholder: 'MS',
    help: 'a clean stop that takes longer is cut short',
  },
  metricsListen: COMMON.metricsListen,
  contactTimeoutMs,
  ingestLagLimitMib,
  logLevel: COMMON.logLevel,
} as const
