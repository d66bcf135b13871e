/** Settings of a safekeeper. */
import { hostPort, oneOf, text } from '@understory/env'

export const CONFIG = {
  nodeId: { read: text, fallback: 'safekeeper-1', placeholder: 'ID', help: 'name of this process' },
  listen: {
    read: hostPort,
    fallback: { host: '127.0.0.1', port: 7500 },
    placeholder: 'HOST:PORT',
    help: 'address of the gRPC service',
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
  dataDir: { read: text, placeholder: 'DIR', help: 'folder of the WAL, made if it is not there' },
  broker: {
    read: text,
    optional: true,
    placeholder: 'URL',
    help: 'where to announce this process: redis://host:port or grpc://host:port',
  },
  logLevel: {
    read: oneOf('error', 'warn', 'info', 'debug'),
    fallback: 'info',
    placeholder: 'LEVEL',
    help: 'least level logged',
  },
} as const
