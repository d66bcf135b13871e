/**
 * The life of one compute as a pure machine: `(state, event) -> (state, effects)`. It decides what begins when, what is
 * dropped how, how long a retry waits, which failures last and which configuration is suspect. The runner (compute.ts)
 * carries effects out and feeds back what came of them.
 *
 *   idle -> adopting ------------------------------------+
 *    |         | not adopted                             |
 *    |         v                                         v
 *    +----> electing -> rebuilding -> starting ------> opening -> running -> stopping
 *             ^  \---> bootstrapping -------------------^  |         |          |
 *             |                                            |         |          |
 *          pausing <------------- dropping <---------------+---------+----------+
 *                                    +----> stopped, or fenced
 *
 * Promises, asserted by lifecycle.test.ts:
 * - A session (a Postgres that streams through a quorum) is begun only where none is; `running` has one.
 * - Once a stop is asked for, nothing begins. After a final loss (I2) the compute ends fenced.
 * - Anything that ran is dropped before anything begins again, or the compute ends.
 */
import { isFinal } from '@understory/consensus/driver'
import type { Loss } from '@understory/consensus/driver'
import type { ComputePhase } from '../telemetry/metrics.ts'

/** Between tries of a life that fails before it runs: the first pause, and the longest. */
export const RETRY_MIN_MS = 100
export const RETRY_MAX_MS = 5_000
/** One failure may be of an old Postgres that is about to end; so many in a row do not pass by themselves. */
export const LASTING_FAILURES = 2

/** How a compute's process ends. */
export type ComputeEnd =
  | { readonly kind: 'stopped'; readonly clean: boolean }
  | { readonly kind: 'fenced'; readonly term: number }

/** The step of a beginning, before there is a session. */
export type Beginning = 'adopting' | 'electing' | 'rebuilding' | 'bootstrapping' | 'starting'

type AfterDrop =
  | { readonly kind: 'begin' }
  | { readonly kind: 'retry' }
  | { readonly kind: 'end'; readonly end: ComputeEnd }

export type LifecycleState =
  | { readonly kind: 'idle'; readonly isStopAsked: boolean }
  | { readonly kind: Beginning }
  /** The session is there; clients are let in once their commits wait for the quorum. */
  | { readonly kind: 'opening' }
  | { readonly kind: 'running' }
  /** A stop was asked for while something began: what begins is cut short. */
  | { readonly kind: 'cancelling'; readonly deadlineMs: number; readonly isOpening: boolean }
  | { readonly kind: 'stopping' }
  | { readonly kind: 'dropping'; readonly next: AfterDrop }
  | { readonly kind: 'pausing' }
  | { readonly kind: 'ended'; readonly end: ComputeEnd }

/** The last failure, and its consequence. */
export interface Trouble {
  /** Empty where nothing is wrong. */
  readonly problem: string
  /** Beginnings that failed in a row. */
  readonly failures: number
  /** Of those, in a row, that do not pass by themselves. */
  readonly lastingFailures: number
  /** Postgres ended by itself at its last start: the newest configuration may be why. */
  readonly isConfigurationSuspect: boolean
  /** Storage has a part of a bootstrap that was cut short: the control plane begins it again. */
  readonly isBootstrapInterrupted: boolean
}

export interface Lifecycle {
  readonly state: LifecycleState
  readonly trouble: Trouble
}

/** Why a beginning failed. */
export type Failure = { readonly problem: string } & (
  | { readonly kind: 'leadLost'; readonly loss: Loss }
  /** On a rebuilt data directory. */
  | { readonly kind: 'postgresNotStarted'; readonly hasEndedByItself: boolean }
  | { readonly kind: 'bootstrapInterrupted' }
  /** It does not pass by itself. */
  | { readonly kind: 'precondition' }
  | { readonly kind: 'other' }
)

/** Why a session is over. */
export type SessionLoss =
  | { readonly kind: 'leadLost'; readonly loss: Loss; readonly problem: string }
  /** Postgres or its WAL stream. */
  | { readonly kind: 'postgresLost'; readonly problem: string }

export type LifecycleEvent =
  | { readonly kind: 'start'; readonly isPostgresLiving: boolean }
  | { readonly kind: 'phase'; readonly phase: Beginning }
  /** A rebuild continues: the problem is over. */
  | { readonly kind: 'progressed' }
  /** A rebuild waits for something outside. */
  | { readonly kind: 'delayed'; readonly problem: string }
  /** The living Postgres is not to be adopted. */
  | { readonly kind: 'notAdopted'; readonly problem: string }
  | { readonly kind: 'sessionMade' }
  | { readonly kind: 'opened' }
  | { readonly kind: 'failed'; readonly failure: Failure }
  | { readonly kind: 'lost'; readonly loss: SessionLoss }
  | { readonly kind: 'stopAsked'; readonly deadlineMs: number }
  | { readonly kind: 'stopped'; readonly clean: boolean }
  | { readonly kind: 'dropped' }
  | { readonly kind: 'pauseOver' }

export type LifecycleEffect =
  /** Answered by `sessionMade`, `notAdopted` or `failed`. */
  | { readonly kind: 'adopt' }
  /** A session from storage, or a new timeline's first. Answered by `sessionMade` or `failed`. */
  | { readonly kind: 'begin'; readonly configuration: 'newest' | 'lastKnownGood' }
  /** Lets clients in. Answered by `opened` or `failed`. */
  | { readonly kind: 'open' }
  /** Answered by `lost`, unless a clean stop begins before. */
  | { readonly kind: 'supervise' }
  /** A beginning, a pause or a save is cut short, and answers all the same. */
  | { readonly kind: 'cancel' }
  /** Answered by `stopped`. */
  | { readonly kind: 'stop'; readonly deadlineMs: number }
  /**
   * Ends Postgres, from this life or an earlier one, and then the lead: `saved` once the quorum has the WAL that is on
   * the local disk alone. Answered by `dropped`.
   */
  | { readonly kind: 'drop'; readonly lead: 'now' | 'saved' }
  /** About so long. Answered by `pauseOver`. */
  | { readonly kind: 'pause'; readonly meanMs: number }
  /** The problem is new. */
  | {
      readonly kind: 'report'
      readonly event: 'compute_failed' | 'postgres_lost' | 'not_adopted'
      readonly problem: string
    }
  | { readonly kind: 'end'; readonly end: ComputeEnd }

export interface LifecycleStep extends Lifecycle {
  readonly effects: readonly LifecycleEffect[]
}

export const NO_TROUBLE: Trouble = {
  problem: '',
  failures: 0,
  lastingFailures: 0,
  isConfigurationSuspect: false,
  isBootstrapInterrupted: false,
}
export const INITIAL_LIFECYCLE: Lifecycle = {
  state: { kind: 'idle', isStopAsked: false },
  trouble: NO_TROUBLE,
}

const BEGINNINGS: readonly string[] = [
  'adopting',
  'electing',
  'rebuilding',
  'bootstrapping',
  'starting',
] satisfies Beginning[]
export const isBeginning = (state: LifecycleState): boolean => BEGINNINGS.includes(state.kind)

/** As metrics and calls show it. */
export function phaseOf({ state }: Lifecycle): ComputePhase {
  switch (state.kind) {
    case 'idle':
    case 'dropping':
    case 'pausing':
    case 'cancelling':
      return 'electing'
    case 'opening':
      return 'starting'
    case 'ended':
      return 'stopped'
    default:
      return state.kind
  }
}

/** Whether clients may be served, and calls may use SQL. */
export const isRunning = ({ state }: Lifecycle): boolean => state.kind === 'running'
export const isFailureLasting = ({ trouble }: Lifecycle): boolean =>
  trouble.problem !== '' && trouble.lastingFailures >= LASTING_FAILURES

/** An event that the state does not expect changes nothing: it is of what was before. */
export function decide(before: Lifecycle, event: LifecycleEvent): LifecycleStep {
  const { state, trouble } = before
  const unchanged: LifecycleStep = { ...before, effects: [] }
  switch (event.kind) {
    case 'start':
      return state.kind === 'idle' ? onStart(before, state.isStopAsked, event.isPostgresLiving) : unchanged
    case 'phase':
      return isBeginning(state) ? onPhase(before, event.phase) : unchanged
    case 'progressed':
      return isBeginning(state) ? { state, trouble: { ...trouble, problem: '' }, effects: [] } : unchanged
    case 'delayed':
      return isBeginning(state)
        ? { state, trouble: { ...trouble, problem: event.problem }, effects: [] }
        : unchanged
    case 'notAdopted':
      return onNotAdopted(before, event.problem)
    case 'sessionMade':
      return onSessionMade(before)
    case 'opened':
      return onOpened(before)
    case 'failed':
      return onFailed(before, event.failure)
    case 'lost':
      return state.kind === 'running' ? onLost(before, event.loss) : unchanged
    case 'stopAsked':
      return onStopAsked(before, event.deadlineMs)
    case 'stopped':
      return state.kind === 'stopping'
        ? drop(trouble, 'now', { kind: 'end', end: { kind: 'stopped', clean: event.clean } })
        : unchanged
    case 'dropped':
      return state.kind === 'dropping' ? onDropped(trouble, state.next) : unchanged
    case 'pauseOver':
      return state.kind === 'pausing' ? begin(trouble) : unchanged
  }
}

const STOPPED: AfterDrop = { kind: 'end', end: { kind: 'stopped', clean: false } }

function drop(
  trouble: Trouble,
  lead: 'now' | 'saved',
  next: AfterDrop,
  ...also: LifecycleEffect[]
): LifecycleStep {
  return { state: { kind: 'dropping', next }, trouble, effects: [...also, { kind: 'drop', lead }] }
}

function begin(trouble: Trouble): LifecycleStep {
  const configuration = trouble.isConfigurationSuspect ? 'lastKnownGood' : 'newest'
  return { state: { kind: 'electing' }, trouble, effects: [{ kind: 'begin', configuration }] }
}

function onStart({ trouble }: Lifecycle, isStopAsked: boolean, isPostgresLiving: boolean): LifecycleStep {
  if (isStopAsked) return drop(trouble, 'now', STOPPED)
  // I4: a Postgres of an earlier life that is not adopted is ended before anything else.
  if (!isPostgresLiving) return drop(trouble, 'now', { kind: 'begin' })
  return { state: { kind: 'adopting' }, trouble, effects: [{ kind: 'adopt' }] }
}

function onPhase({ trouble }: Lifecycle, phase: Beginning): LifecycleStep {
  // Storage was asked by then, and has a whole timeline or none.
  const isPast = phase === 'rebuilding' || phase === 'bootstrapping'
  return {
    state: { kind: phase },
    trouble: isPast ? { ...trouble, isBootstrapInterrupted: false } : trouble,
    effects: [],
  }
}

function onNotAdopted({ state, trouble }: Lifecycle, problem: string): LifecycleStep {
  const report: LifecycleEffect = { kind: 'report', event: 'not_adopted', problem }
  if (state.kind === 'cancelling') return drop(trouble, 'now', STOPPED, report)
  if (state.kind === 'adopting') return drop(trouble, 'now', { kind: 'begin' }, report)
  return { state, trouble, effects: [] }
}

function onSessionMade({ state, trouble }: Lifecycle): LifecycleStep {
  if (state.kind === 'cancelling') return drop(trouble, 'now', STOPPED)
  if (!isBeginning(state)) return { state, trouble, effects: [] }
  return { state: { kind: 'opening' }, trouble, effects: [{ kind: 'open' }] }
}

function onOpened({ state, trouble }: Lifecycle): LifecycleStep {
  if (state.kind === 'opening')
    return { state: { kind: 'running' }, trouble: NO_TROUBLE, effects: [{ kind: 'supervise' }] }
  if (state.kind !== 'cancelling' || !state.isOpening) return { state, trouble, effects: [] }
  return {
    state: { kind: 'stopping' },
    trouble: NO_TROUBLE,
    effects: [{ kind: 'stop', deadlineMs: state.deadlineMs }],
  }
}

function onFailed({ state, trouble: before }: Lifecycle, failure: Failure): LifecycleStep {
  if (state.kind === 'cancelling') return drop(before, 'now', STOPPED)
  if (!isBeginning(state) && state.kind !== 'opening') return { state, trouble: before, effects: [] }
  const { problem } = failure
  const trouble: Trouble = {
    problem,
    failures: before.failures + 1,
    lastingFailures: failure.kind === 'precondition' ? before.lastingFailures + 1 : 0,
    isConfigurationSuspect:
      failure.kind === 'postgresNotStarted' ? failure.hasEndedByItself : before.isConfigurationSuspect,
    isBootstrapInterrupted: failure.kind === 'bootstrapInterrupted' || before.isBootstrapInterrupted,
  }
  const reports: LifecycleEffect[] =
    problem === before.problem ? [] : [{ kind: 'report', event: 'compute_failed', problem }]
  if (failure.kind !== 'leadLost') return drop(trouble, 'saved', { kind: 'retry' }, ...reports)
  return drop(trouble, 'now', afterLoss(failure.loss, { kind: 'retry' }), ...reports)
}

function onLost({ trouble: before }: Lifecycle, loss: SessionLoss): LifecycleStep {
  const { problem } = loss
  const trouble = { ...before, problem }
  if (loss.kind === 'postgresLost')
    return drop(trouble, 'saved', { kind: 'begin' }, { kind: 'report', event: 'postgres_lost', problem })
  // Without contact it tries again: an election that a majority answers decides.
  return drop(trouble, 'now', afterLoss(loss.loss, { kind: 'begin' }))
}

/** I2: where another compute has the timeline for good, this one ends. */
const afterLoss = (loss: Loss, otherwise: AfterDrop): AfterDrop =>
  isFinal(loss) ? { kind: 'end', end: { kind: 'fenced', term: 'term' in loss ? loss.term : 0 } } : otherwise

function onStopAsked({ state, trouble }: Lifecycle, deadlineMs: number): LifecycleStep {
  switch (state.kind) {
    case 'idle':
      return { state: { kind: 'idle', isStopAsked: true }, trouble, effects: [] }
    case 'running':
      return { state: { kind: 'stopping' }, trouble, effects: [{ kind: 'stop', deadlineMs }] }
    case 'dropping': {
      const next = state.next.kind === 'end' ? state.next : STOPPED
      return { state: { kind: 'dropping', next }, trouble, effects: [{ kind: 'cancel' }] }
    }
    case 'pausing':
      return drop(trouble, 'now', STOPPED, { kind: 'cancel' })
    case 'cancelling':
    case 'stopping':
    case 'ended':
      return { state, trouble, effects: [] }
    default:
      return {
        state: { kind: 'cancelling', deadlineMs, isOpening: state.kind === 'opening' },
        trouble,
        effects: [{ kind: 'cancel' }],
      }
  }
}

function onDropped(trouble: Trouble, next: AfterDrop): LifecycleStep {
  switch (next.kind) {
    case 'begin':
      return begin(trouble)
    case 'retry': {
      // Chance keeps two candidates from overtaking each other for ever; time keeps a hopeless one from burning CPU.
      const meanMs = Math.min(RETRY_MIN_MS * 2 ** trouble.failures, RETRY_MAX_MS)
      return { state: { kind: 'pausing' }, trouble, effects: [{ kind: 'pause', meanMs }] }
    }
    case 'end':
      return { state: { kind: 'ended', end: next.end }, trouble, effects: [{ kind: 'end', end: next.end }] }
  }
}
