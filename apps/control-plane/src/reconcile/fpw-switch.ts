/**
 * The full_page_writes switch of one timeline, as a pure plan: what to do next, given what is wanted and what was
 * observed. Order is what rule I5 rests on:
 *
 *   on -> off   image_generation (every shard, durable) -> setting -> seen_in_wal                      = off
 *   off -> on   setting -> seen_in_wal -> checkpoint (redo at or past the record) -> image_generation_off = on
 *
 * Every step is idempotent and its completion is stored, so another control plane continues it.
 * A request in the opposite direction half way starts the other plan from its beginning.
 */
import { formatLsn, lsnFromBigint, parseLsn } from '@understory/base'
import { FullPageWrites } from '@understory/rpc'
import type { ShardStatus } from '@understory/rpc'
import type { FpwState, FpwStepName } from '../documents/timeline-document.ts'

/** The last value that shard 0 read in the WAL, and where. */
export interface SeenFullPageWrites {
  readonly value: 'on' | 'off'
  readonly lsn: string
}

export function seenFullPageWrites(shardZero: ShardStatus | undefined): SeenFullPageWrites | undefined {
  switch (shardZero?.fullPageWrites) {
    case FullPageWrites.FULL_PAGE_WRITES_ON:
      return { value: 'on', lsn: formatLsn(lsnFromBigint(shardZero.fullPageWritesLsn)) }
    case FullPageWrites.FULL_PAGE_WRITES_OFF:
      return { value: 'off', lsn: formatLsn(lsnFromBigint(shardZero.fullPageWritesLsn)) }
    default:
      return undefined
  }
}

const STEPS_OFF: readonly FpwStepName[] = ['image_generation', 'setting', 'seen_in_wal']
const STEPS_ON: readonly FpwStepName[] = ['setting', 'seen_in_wal', 'checkpoint', 'image_generation_off']

/** The state right after a request. A repeated request changes nothing. */
export function requestSwitch(state: FpwState, wanted: 'on' | 'off', nowMs: number): FpwState {
  if (state.wanted === wanted) return state
  return beginSwitch({ ...state, wanted }, nowMs)
}

/**
 * Starts the plan towards what is wanted; also after drift, where WAL shows what was not requested. Either is a request
 * with a number of its own, so that a message of an earlier plan that comes late changes nothing.
 */
export function beginSwitch(state: FpwState, nowMs: number): FpwState {
  const names = state.wanted === 'off' ? STEPS_OFF : STEPS_ON
  return {
    ...state,
    generation: state.generation + 1,
    phase: state.wanted === 'off' ? 'switching_off' : 'switching_on',
    problem: '',
    startedAtMs: nowMs,
    tookMs: 0,
    steps: names.map((name) => ({ name, tookMs: 0, done: false, lsn: '0/0' })),
  }
}

/** The step to carry out now, or undefined when there is none. */
export function nextStep(state: FpwState): FpwStepName | undefined {
  if (state.phase === 'on' || state.phase === 'off') return undefined
  return state.steps.find(({ done }) => !done)?.name
}

/** The state after a step was carried out; the last step ends the switch. `lsn` is where it took effect, or 0/0. */
export function completeStep(
  state: FpwState,
  name: FpwStepName,
  lsn: string,
  tookMs: number,
  nowMs: number,
): FpwState {
  const steps = state.steps.map((step) => (step.name === name ? { ...step, done: true, lsn, tookMs } : step))
  const sinceLsn = name === 'seen_in_wal' ? lsn : state.sinceLsn
  const ended = steps.every(({ done }) => done)
  return {
    ...state,
    steps,
    sinceLsn,
    problem: '',
    phase: ended ? state.wanted : state.phase,
    tookMs: ended ? nowMs - state.startedAtMs : 0,
  }
}

/** The LSN that a completed step took effect at, or undefined. */
export function stepLsn(state: FpwState, name: FpwStepName): string | undefined {
  const step = state.steps.find((item) => item.name === name)
  return step?.done === true ? step.lsn : undefined
}

/**
 * Whether a compute that is rebuilt now starts with the setting off. Not before every shard makes images durably: a
 * compute may die in the middle of the switch, and its next life must not run ahead of the plan.
 */
export function startsWithSettingOff(state: FpwState): boolean {
  if (state.wanted !== 'off') return false
  return state.phase === 'off' || stepLsn(state, 'image_generation') !== undefined
}

/**
 * A settled switch whose WAL shows the other value: a user changed the setting. Answer it by beginning again. A shard
 * that has just started reads WAL from before the switch again, and reports what it finds there: that is not drift.
 */
export function hasDrifted(state: FpwState, seen: SeenFullPageWrites | undefined): boolean {
  if (seen === undefined || (state.phase !== 'on' && state.phase !== 'off')) return false
  return seen.value !== state.phase && parseLsn(seen.lsn) > parseLsn(state.sinceLsn)
}
