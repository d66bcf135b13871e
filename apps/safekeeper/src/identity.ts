/** What a timeline's Postgres is; fixed when the timeline is made. */
import { refuse } from '@understory/base'
import type { PgMajor } from '@understory/postgres/redo'
import { isValidSegmentBytes } from '@understory/postgres/wal'
import type { PostgresIdentity as PostgresIdentityMessage } from '@understory/rpc'

export interface PostgresIdentity {
  readonly major: PgMajor
  readonly systemId: bigint
  readonly pgTimelineId: number
  readonly segmentBytes: number
}

/** Error: refused `bad_argument`. */
export function readIdentity(message: PostgresIdentityMessage | undefined): PostgresIdentity {
  if (message === undefined) throw refuse('bad_argument', 'the identity of Postgres is missing')
  const { major, systemId, pgTimelineId, walSegmentBytes } = message
  if (major !== 16 && major !== 17 && major !== 18) {
    throw refuse('bad_argument', `PostgreSQL ${major} is not supported`, {
      hint: 'Versions 16, 17 and 18 are.',
    })
  }
  if (!isValidSegmentBytes(walSegmentBytes))
    throw refuse('bad_argument', `WAL segments cannot be ${walSegmentBytes} bytes`)
  if (pgTimelineId === 0) throw refuse('bad_argument', 'Postgres has no timeline 0')
  return { major, systemId, pgTimelineId, segmentBytes: walSegmentBytes }
}

export const writeIdentity = ({
  major,
  systemId,
  pgTimelineId,
  segmentBytes,
}: PostgresIdentity): PostgresIdentityMessage => ({
  major,
  systemId,
  pgTimelineId,
  walSegmentBytes: segmentBytes,
})

export function isSameIdentity(a: PostgresIdentity, b: PostgresIdentity): boolean {
  return (
    a.major === b.major &&
    a.systemId === b.systemId &&
    a.pgTimelineId === b.pgTimelineId &&
    a.segmentBytes === b.segmentBytes
  )
}

export const describeIdentity = ({ major, systemId, pgTimelineId, segmentBytes }: PostgresIdentity): string =>
  `PostgreSQL ${major}, system ${systemId}, timeline ${pgTimelineId}, segments of ${segmentBytes} bytes`
