/** Settings of the two commands. */
import { hostPort, oneOf, text, wholeNumber } from '@understory/env'

const logLevel = {
  read: oneOf('error', 'warn', 'info', 'debug'),
  fallback: 'info',
  placeholder: 'LEVEL',
  help: 'least level logged',
} as const

const contactTimeoutMs = {
  read: wholeNumber(2_000, 3_600_000),
  fallback: 30_000,
  placeholder: 'MS',
  help: 'a compute without contact to a majority of its safekeepers for so long stops its Postgres',
} as const

const metricsListen = {
  read: hostPort,
  optional: true,
  placeholder: 'HOST:PORT',
  help: 'where /metrics is served; nowhere by default',
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
  nodeId: { read: text, fallback: 'compute-host-1', placeholder: 'ID', help: 'name of this process' },
  listen: {
    read: hostPort,
    fallback: { host: '127.0.0.1', port: 7700 },
    placeholder: 'HOST:PORT',
    help: 'address of the gRPC service',
  },
  dataDir: {
    read: text,
    placeholder: 'DIR',
    help: 'folder of the computes; their Postgres users must be able to enter it',
  },
  broker: {
    read: text,
    optional: true,
    placeholder: 'URL',
    help: 'where to announce this process: redis://host:port or grpc://host:port',
  },
  'postgresBin-16': binaries(16),
  'postgresBin-17': binaries(17),
  'postgresBin-18': binaries(18),
  metricsListen,
  contactTimeoutMs,
  logLevel,
} as const

/** `compute-proxy run`: one compute, started by a host. */
export const RUN_CONFIG = {
  nodeId: { read: text, placeholder: 'ID', help: 'name of the host' },
  spec: { read: text, placeholder: 'BASE64', help: 'the compute spec' },
  root: { read: text, placeholder: 'DIR', help: "the compute's own folder" },
  bin: { read: text, placeholder: 'DIR', help: 'folder of initdb and postgres' },
  postgresUid: {
    read: wholeNumber(1_000, 2_147_483_647),
    optional: true,
    placeholder: 'UID',
    help: 'user and group of Postgres, where this process is root: of this timeline alone',
  },
  wantedAnew: {
    read: oneOf('yes', 'no'),
    fallback: 'no',
    placeholder: 'yes|no',
    help: 'whether it takes the lead although another compute had it since it last ran',
  },
  metricsListen,
  contactTimeoutMs,
  logLevel,
} as const

/** `compute-proxy pod`: the compute of a Kubernetes pod, whose Postgres is a container beside this one. */
export const POD_CONFIG = {
  nodeId: { read: text, placeholder: 'ID', help: 'name of the pod' },
  timeline: { read: text, placeholder: 'ID', help: 'the only timeline that may run here' },
  listen: {
    read: hostPort,
    fallback: { host: '0.0.0.0', port: 7700 },
    placeholder: 'HOST:PORT',
    help: 'address of the gRPC service',
  },
  healthListen: {
    read: hostPort,
    optional: true,
    placeholder: 'HOST:PORT',
    help: 'where probes are answered in plain text, beside the gRPC service',
  },
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
    help: 'a clean stop that takes longer is given up',
  },
  metricsListen,
  contactTimeoutMs,
  logLevel,
} as const
