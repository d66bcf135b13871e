/** The identity of a timeline's Postgres: fixed when the timeline is created. */
import { fail } from '@understory/base'
import type { PgMajor } from '../wal/pages.ts'

export interface PostgresIdentity {
  readonly major: PgMajor
  /** System identifier of pg_control. */
  readonly systemId: bigint
  /** Postgres's own timeline id, which never changes here; 1 or more. */
  readonly pgTimelineId: number
  /** A power of two from 1 MiB to 1 GiB. */
  readonly walSegmentBytes: number
}

export const isPostgresMajor = (major: number): major is PgMajor =>
  major === 16 || major === 17 || major === 18

/** Errors: `unsupported`. */
export function readPostgresMajor(major: number): PgMajor {
  if (isPostgresMajor(major)) return major
  throw fail('unsupported', `PostgreSQL ${major} is not supported`, { hint: 'Use 16, 17 or 18.' })
}

export function isSameIdentity(a: PostgresIdentity, b: PostgresIdentity): boolean {
  return (
    a.major === b.major &&
    a.systemId === b.systemId &&
    a.pgTimelineId === b.pgTimelineId &&
    a.walSegmentBytes === b.walSegmentBytes
  )
}

export const describeIdentity = (identity: PostgresIdentity): string =>
  `PostgreSQL ${identity.major}, system ${identity.systemId}, timeline ${identity.pgTimelineId}, ` +
  `segments of ${identity.walSegmentBytes} bytes`
