/** The timeline's compute runs, and runs as the documents say. */
import type { Configuration } from '@understory/rpc'
import type { TimelineDocument } from '../../documents/timeline-document.ts'
import { ifReachable } from '../../clients/node-clients.ts'
import { computeSpecOf, specDigest } from '../compute-spec.ts'
import { isFromStore } from '../membership-change.ts'
import { computePlaceOf, isOpen } from '../observation.ts'
import { SETTLED } from './step.ts'
import type { Step, StepContext, StepParts } from './step.ts'

/** Older than any that a compute has: of a timeline whose configuration was never published. */
const INITIAL_CONFIGURATION: Configuration = {
  version: { term: 0n, number: 1n },
  files: {},
  soundFiles: {},
}

export function compute(parts: StepParts): Step {
  const { computes, configuration, log, problems } = parts
  return async (context) => {
    // Not while WAL comes from the object store: shards have more than it, and a compute would read that.
    if (isFromStore(context.timeline)) return SETTLED
    const timeline = await withSpecGeneration(parts, context)
    const spec = computeSpecOf(context.tenant, timeline)
    const initial = spec.bootstrap ? undefined : INITIAL_CONFIGURATION
    const published = (await configuration.read()) ?? initial
    const ensured = computes.ensure(computePlaceOf(context.tenant, timeline), spec, published)
    const problem = (await ifReachable(ensured)) ?? ''
    // Once: its words change while it lasts.
    if (problem !== '' && problems.compute === '') log.warn('waiting_for_compute', { problem })
    problems.compute = problem
    return { kind: isOpen(await context.observe()) ? 'settled' : 'unsettled', timeline }
  }
}

/** Its document, with a new generation of the spec where the compute was sent another one last. */
async function withSpecGeneration(
  { update }: StepParts,
  { tenant, timeline }: StepContext,
): Promise<TimelineDocument> {
  const digest = specDigest(computeSpecOf(tenant, timeline))
  if (digest === timeline.specDigest) return timeline
  return update((item) => ({ ...item, specDigest: digest, specGeneration: item.specGeneration + 1 }))
}
