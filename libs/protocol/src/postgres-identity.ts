/** Identities of Postgres on the wire. The other way needs no code: a `PostgresIdentity` is a valid message. */
import { fail } from '@understory/base'
import { readPostgresMajor } from '@understory/postgres/cluster'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { isValidSegmentBytes } from '@understory/postgres/wal'
import type { PostgresIdentity as PostgresIdentityMessage } from '@understory/rpc'

/** Errors: `bad_argument`, or `unsupported` for a version that is not supported. */
export function readPostgresIdentity(message: PostgresIdentityMessage | undefined): PostgresIdentity {
  if (message === undefined) throw fail('bad_argument', 'the identity of Postgres is missing')
  const { systemId, pgTimelineId, walSegmentBytes } = message
  const major = readPostgresMajor(message.major)
  if (!isValidSegmentBytes(walSegmentBytes))
    throw fail('bad_argument', `WAL segments cannot be ${walSegmentBytes} bytes`)
  if (pgTimelineId === 0) throw fail('bad_argument', 'Postgres has no timeline 0')
  return { major, systemId, pgTimelineId, walSegmentBytes }
}
