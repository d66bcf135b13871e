/**
 * The spec of a compute: `ComputeSpec` of proto/, built by the control plane, and kept in a file by a compute host.
 */
import { parseTenantId, parseTimelineId, fail } from '@understory/base'
import { readPostgresMajor } from '@understory/postgres/cluster'
import type { PgMajor } from '@understory/postgres/wal'
import { ComputeSpec } from '@understory/rpc'
import { readMembership } from './membership.ts'

/** A spec whose required parts are there. */
export interface CheckedSpec extends ComputeSpec {
  readonly timeline: { readonly tenantId: string; readonly timelineId: string }
  readonly postgresMajor: PgMajor
}

/** Errors: `bad_argument` that names what is wrong, `unsupported` for a version that is not supported. */
export function checkSpec(spec: ComputeSpec | undefined): CheckedSpec {
  if (spec?.timeline === undefined) throw fail('bad_argument', 'the compute spec names no timeline')
  parseTenantId(spec.timeline.tenantId)
  parseTimelineId(spec.timeline.timelineId)
  const postgresMajor = readPostgresMajor(spec.postgresMajor)
  if (spec.safekeepers.length === 0) throw fail('bad_argument', 'the compute spec names no safekeeper')
  if (spec.pageservers.length === 0) throw fail('bad_argument', 'the compute spec names no pageserver')
  if (spec.membership !== undefined) readMembership(spec.membership)
  return { ...spec, timeline: spec.timeline, postgresMajor }
}

export const encodeSpec = (spec: ComputeSpec): string =>
  Buffer.from(ComputeSpec.encode(spec).finish()).toString('base64')

/** Errors: `bad_argument`. */
export function decodeSpec(text: string): CheckedSpec {
  try {
    return checkSpec(ComputeSpec.decode(Buffer.from(text, 'base64')))
  } catch (cause) {
    throw fail('bad_argument', 'the compute spec is malformed', {
      cause,
      hint: 'It is written by `compute-proxy host`.',
    })
  }
}
