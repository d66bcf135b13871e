/** What a compute is told to be: `ComputeSpec` of proto/, as it lies in a file between host and compute. */
import { parseTenantId, parseTimelineId, refuse } from '@understory/base'
import { ComputeSpec } from '@understory/rpc'

/** A spec whose required parts are there. */
export interface CheckedSpec extends ComputeSpec {
  readonly timeline: { readonly tenantId: string; readonly timelineId: string }
  readonly postgresMajor: 16 | 17 | 18
}

/** Error: refused `bad_argument` that names what is wrong. */
export function checkSpec(spec: ComputeSpec | undefined): CheckedSpec {
  if (spec?.timeline === undefined) throw refuse('bad_argument', 'the compute spec names no timeline')
  parseTenantId(spec.timeline.tenantId)
  parseTimelineId(spec.timeline.timelineId)
  const { postgresMajor } = spec
  if (postgresMajor !== 16 && postgresMajor !== 17 && postgresMajor !== 18) {
    throw refuse('bad_argument', `postgres ${postgresMajor} is not supported`, { hint: 'Use 16, 17 or 18.' })
  }
  if (spec.safekeepers.length === 0) throw refuse('bad_argument', 'the compute spec names no safekeeper')
  if (spec.pageservers.length === 0) throw refuse('bad_argument', 'the compute spec names no pageserver')
  return { ...spec, timeline: spec.timeline, postgresMajor }
}

export const encodeSpec = (spec: ComputeSpec): string =>
  Buffer.from(ComputeSpec.encode(spec).finish()).toString('base64')

export function decodeSpec(text: string): CheckedSpec {
  try {
    return checkSpec(ComputeSpec.decode(Buffer.from(text, 'base64')))
  } catch (cause) {
    throw refuse('bad_argument', 'the compute spec is malformed', {
      cause,
      hint: 'It is written by `compute-proxy host`.',
    })
  }
}
