/**
 * full_page_writes is as requested: drift begins the switch again, and a switch continues with its next step
 * (fpw-switch.ts).
 */
import { lsnFromBigint, parseLsn, present, fail } from '@understory/base'
import type { FpwStepName, TimelineDocument } from '../../documents/timeline-document.ts'
import {
  beginSwitch,
  completeStep,
  hasDrifted,
  nextStep,
  seenFullPageWrites,
  stepLsn,
} from '../fpw-switch.ts'
import { askPageservers, runningCompute, shardOn, shardsOf } from '../observation.ts'
import { imageGenerationOf, shardRefOf } from '../shard-requests.ts'
import { SETTLED } from './step.ts'
import type { Step, StepContext, StepParts } from './step.ts'

/** Between looks at the WAL position that a switch waits for: at first, and at most, after growing. */
const SEEN_POLL_MS_MIN = 10
const SEEN_POLL_MS_MAX = 250
const SEEN_POLL_FACTOR = 1.5
/** How long one pass waits for the record before it lets other steps go first. */
const SEEN_WAIT_MS = 5_000

export const fpw =
  (parts: StepParts): Step =>
  async (context) => {
    const { log, clock, update } = parts
    let { timeline } = context
    const seen = seenFullPageWrites(shardsOf(timeline, (await context.observe()).shards)[0])
    if (hasDrifted(timeline.fpw, seen)) {
      log.warn('full_page_writes_drifted', {
        wanted: timeline.fpw.wanted,
        seen: seen?.value,
        sinceLsn: seen?.lsn,
      })
      timeline = await update((item) => ({ ...item, fpw: beginSwitch(item.fpw, clock.wallMs()) }))
    }
    const step = nextStep(timeline.fpw)
    if (step === undefined) return SETTLED
    await carryOut(parts, { ...context, timeline }, step)
    return { kind: 'again' }
  }

async function carryOut(parts: StepParts, context: StepContext, step: FpwStepName): Promise<void> {
  const { clock, log, observer, update } = parts
  const { timeline } = context
  const startedMs = clock.nowMs()
  const work = (): Promise<string | undefined> => ACTIONS[step](parts, context)
  const lsn = await (observer === undefined ? work() : observer.carryOut(timeline, step, work))
  if (lsn === undefined) return
  const tookMs = Math.round(clock.nowMs() - startedMs)
  const { fpw: after } = await update((item) =>
    // A newer request has begun another plan in the meantime, to which this step does not belong.
    item.fpw.generation === timeline.fpw.generation
      ? { ...item, fpw: completeStep(item.fpw, step, lsn, tookMs, clock.wallMs()) }
      : item,
  )
  if (after.generation === timeline.fpw.generation) observer?.fpwStepped(timeline.timelineId, after)
  log.info('fpw_step_done', { step, lsn, tookMs })
}

/** The LSN at which the step took effect (0/0 where none belongs to it), or undefined when it is not done yet. */
type Action = (parts: StepParts, context: StepContext) => Promise<string | undefined>

const ACTIONS: Readonly<Record<FpwStepName, Action>> = {
  image_generation: (parts, context) => switchImageGeneration(parts, context, true),
  image_generation_off: (parts, context) => switchImageGeneration(parts, context, false),
  setting: async ({ clients }, { timeline, observe }) =>
    clients.setFullPageWrites(runningCompute(await observe()), timeline.fpw.wanted === 'on'),
  seen_in_wal: (parts, { timeline }) => waitUntilSeen(parts, timeline),
  checkpoint: async ({ clients }, { timeline, observe }) => {
    const redo = await clients.runCheckpoint(runningCompute(await observe()))
    const seenAt = present(stepLsn(timeline.fpw, 'seen_in_wal'), 'the position where the change was seen')
    // A checkpoint that began before the record does not count: pages dirtied before it would have no image.
    return parseLsn(redo) >= parseLsn(seenAt) ? redo : undefined
  },
}

async function switchImageGeneration(
  { clients, ref }: StepParts,
  { tenant, timeline }: StepContext,
  enabled: boolean,
): Promise<string> {
  const settings = imageGenerationOf(tenant, enabled)
  const { generation } = timeline.fpw
  await Promise.all(
    timeline.shards.map(({ node }, number) => {
      const address = present(timeline.addresses[node], `address of ${node}`)
      return clients.setImageGeneration(address, ref, shardRefOf(tenant, number), settings, generation)
    }),
  )
  return '0/0'
}

async function waitUntilSeen({ clients, clock }: StepParts, timeline: TimelineDocument): Promise<string> {
  const setAt = parseLsn(stepLsn(timeline.fpw, 'setting') ?? '0/0')
  const untilMs = clock.nowMs() + SEEN_WAIT_MS
  const first = present(timeline.shards[0], 'shard 0')
  for (let pauseMs = SEEN_POLL_MS_MIN; clock.nowMs() < untilMs;) {
    const answers = await askPageservers(clients, { ...timeline, shards: [first] })
    const shardZero = shardOn(answers, first.node, 0)
    if (shardZero !== undefined && shardZero.failure !== '')
      throw fail('precondition', `shard 0 has stopped: ${shardZero.failure}`)
    const seen = seenFullPageWrites(shardZero)
    if (seen?.value === timeline.fpw.wanted && lsnFromBigint(shardZero?.ingestedLsn ?? 0n) >= setAt)
      return seen.lsn
    await clock.sleep(pauseMs)
    pauseMs = Math.min(SEEN_POLL_MS_MAX, pauseMs * SEEN_POLL_FACTOR)
  }
  throw fail('timeout', `full_page_writes = ${timeline.fpw.wanted} was not seen in the WAL yet`, {
    hint: 'The change needs a running compute and a shard 0 that keeps up; the switch continues by itself.',
  })
}
