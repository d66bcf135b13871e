/** The options of the demonstration. */
import { oneOf, text, wholeNumber } from '@understory/env'

export const DEMO_OPTIONS = {
  seconds: {
    read: wholeNumber(2, 3_600),
    fallback: 40,
    placeholder: 'N',
    help: 'length of each of the four load phases',
  },
  warehouses: { read: wholeNumber(1, 1_000), fallback: 4, placeholder: 'N', help: 'TPC-C scale' },
  scale: { read: wholeNumber(1, 10_000), fallback: 20, placeholder: 'N', help: "scale of pgbench's script" },
  clients: { read: wholeNumber(1, 256), fallback: 8, placeholder: 'N', help: 'database clients' },
  pg: { read: oneOf('16', '17', '18'), fallback: '17', placeholder: 'MAJOR', help: 'Postgres version' },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write the figures there as JSON' },
  objectStore: {
    read: text,
    optional: true,
    placeholder: 'URL',
    help: 's3://bucket/prefix?endpoint=URL; a directory by default',
  },
  broker: { read: text, optional: true, placeholder: 'URL', help: 'redis://host:port; embedded by default' },
} as const

/** The same in both phases of a comparison, and printed with the results. */
export const POSTGRES_SETTINGS: Readonly<Record<string, string>> = {
  checkpoint_timeout: '30s',
  max_wal_size: '100GB',
  wal_compression: 'off',
  shared_buffers: '512MB',
  synchronous_commit: 'on',
}
