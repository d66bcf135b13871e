/**
 * The answers of the control plane, as a program reads them: LSNs as text, states as words, milliseconds as numbers.
 */
import { fail } from '@understory/base'
import { ComputeState, FpwPhase, FullPageWrites } from '@understory/rpc'
import type { FpwStatus, SafekeepersStatus } from '@understory/rpc'
import { lsnText } from './lsn.ts'

/** The state of a switch of full_page_writes. */
export interface FpwView {
  readonly wanted: 'on' | 'off'
  readonly phase: 'on' | 'switching off' | 'off' | 'switching on'
  /** Where the present state began in the WAL. */
  readonly sinceLsn: string
  readonly steps: readonly {
    readonly name: string
    readonly tookMs: number
    readonly done: boolean
    readonly lsn: string
  }[]
  /** Empty, or what it waits for. */
  readonly problem: string
  readonly tookMs: number
}

/** A timeline's safekeepers, and the change of them that is under way or was the last. */
export interface SafekeepersView {
  /** Grows with every change, twice. */
  readonly generation: number
  readonly safekeepers: readonly {
    readonly node: string
    readonly role: 'member' | 'joining' | 'leaving' | 'left'
    readonly alive: boolean
    readonly generation: number
    readonly flushLsn: string
    readonly commitLsn: string
    /** Empty, or what is wrong with it. */
    readonly failure: string
  }[]
  readonly change: SafekeeperChangeView | undefined
}

export interface SafekeeperChangeView {
  readonly number: number
  readonly add: readonly string[]
  readonly remove: readonly string[]
  readonly reason: 'user' | 'lost_node' | 'recovery' | 'stored'
  /** The change was cancelled: the members are those of before. */
  readonly cancelled: boolean
  readonly steps: readonly { readonly name: string; readonly done: boolean; readonly tookMs: number }[]
  readonly done: boolean
  /** Empty, or what it waits for. */
  readonly problem: string
  readonly tookMs: number
  /** Of the newcomer that is furthest behind, while it pulls; `0/0` otherwise. */
  readonly pulledLsn: string
  readonly pullGoalLsn: string
}

const PHASES: Readonly<Record<number, FpwView['phase']>> = {
  [FpwPhase.FPW_PHASE_ON]: 'on',
  [FpwPhase.FPW_PHASE_SWITCHING_OFF]: 'switching off',
  [FpwPhase.FPW_PHASE_OFF]: 'off',
  [FpwPhase.FPW_PHASE_SWITCHING_ON]: 'switching on',
}

/** Of an answer: what it must have. */
export function given<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw fail('unavailable', `the control plane answered without ${what}`)
  return value
}

export function fpwView(answer: FpwStatus | undefined): FpwView {
  const status = given(answer, 'a status')
  return {
    wanted: status.wanted === FullPageWrites.FULL_PAGE_WRITES_OFF ? 'off' : 'on',
    phase: PHASES[status.phase] ?? 'on',
    sinceLsn: lsnText(status.sinceLsn),
    steps: status.steps.map(({ name, tookMs, done, lsn }) => ({
      name,
      done,
      tookMs: Number(tookMs),
      lsn: lsnText(lsn),
    })),
    problem: status.problem,
    tookMs: Number(status.tookMs),
  }
}

export function safekeepersView(answer: SafekeepersStatus | undefined): SafekeepersView {
  const { membership, safekeepers, change } = given(answer, 'a status')
  return {
    generation: Number(membership?.generation ?? 0n),
    safekeepers: safekeepers.map((item) => ({
      node: item.nodeId,
      role: item.role as SafekeepersView['safekeepers'][number]['role'],
      alive: item.alive,
      generation: Number(item.membershipGeneration),
      flushLsn: lsnText(item.flushLsn),
      commitLsn: lsnText(item.commitLsn),
      failure: item.failure,
    })),
    change:
      change === undefined
        ? undefined
        : {
            number: Number(change.number),
            add: change.add,
            remove: change.remove,
            reason: change.reason as SafekeeperChangeView['reason'],
            steps: change.steps.map(({ name, done, tookMs }) => ({ name, done, tookMs: Number(tookMs) })),
            done: change.done,
            cancelled: change.cancelled,
            problem: change.problem,
            tookMs: Number(change.tookMs),
            pulledLsn: lsnText(change.pulledLsn),
            pullGoalLsn: lsnText(change.pullGoalLsn),
          },
  }
}

const COMPUTE_STATE_LINES: Readonly<Record<number, string>> = {
  [ComputeState.COMPUTE_STATE_IMPORTING]: 'a new Postgres is taken into storage',
  [ComputeState.COMPUTE_STATE_ELECTING]: 'asking the safekeepers for the lead',
  [ComputeState.COMPUTE_STATE_REBUILDING]: 'the data directory is written from storage',
  [ComputeState.COMPUTE_STATE_STARTING]: 'Postgres is starting',
  [ComputeState.COMPUTE_STATE_RUNNING]: 'Postgres is open for SQL',
  [ComputeState.COMPUTE_STATE_STOPPING]: 'Postgres is stopping',
}

/** With the password, where there is one; undefined while there is no connection string. */
export function connectionStringWith(connectionString = '', password = ''): string | undefined {
  if (connectionString === '') return undefined
  if (password === '') return connectionString
  const url = new URL(connectionString)
  url.password = encodeURIComponent(password)
  return url.href
}

/** The phase of a compute, for people. */
export function computeLine(state: ComputeState | undefined, percent = 0): string {
  const line =
    COMPUTE_STATE_LINES[state ?? ComputeState.COMPUTE_STATE_UNSPECIFIED] ?? 'waiting for the compute'
  return percent > 0 && percent < 100 ? `${line}, ${percent} %` : line
}
