/**
 * Goal: no order of events gives two sessions, a Postgres without a lead, or a life after a stop or after another
 * compute was elected (I2, I4). Method: the table by hand, and then worlds in which every effect is answered by any of
 * its outcomes.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  INITIAL_LIFECYCLE,
  NO_TROUBLE,
  RETRY_MAX_MS,
  decide,
  isFailureLasting,
  phaseOf,
} from './lifecycle.ts'
import type { Failure, Lifecycle, LifecycleEffect, LifecycleEvent, LifecycleState } from './lifecycle.ts'

const OTHER: Failure = { kind: 'other', problem: 'no storage' }
const FENCED = { kind: 'fenced', term: 7 } as const
const end = (clean: boolean) => ({ kind: 'stopped', clean }) as const

const at = (state: LifecycleState): Lifecycle => ({ state, trouble: NO_TROUBLE })
const inState = (kind: 'electing' | 'opening' | 'running' | 'adopting' | 'pausing'): Lifecycle => at({ kind })
const kinds = (effects: readonly LifecycleEffect[]): string =>
  effects.map((effect) => (effect.kind === 'drop' ? `drop ${effect.lead}` : effect.kind)).join(', ')

function follow(from: Lifecycle, ...events: LifecycleEvent[]) {
  let lifecycle = from
  const effects: string[] = []
  for (const event of events) {
    const step = decide(lifecycle, event)
    lifecycle = { state: step.state, trouble: step.trouble }
    effects.push(kinds(step.effects))
  }
  return { lifecycle, effects }
}

test('from its start to a clean end', () => {
  const { lifecycle, effects } = follow(
    INITIAL_LIFECYCLE,
    { kind: 'start', isPostgresLiving: false },
    { kind: 'dropped' },
    { kind: 'phase', phase: 'rebuilding' },
    { kind: 'phase', phase: 'starting' },
    { kind: 'sessionMade' },
    { kind: 'opened' },
    { kind: 'stopAsked', deadlineMs: 5 },
    { kind: 'stopped', clean: true },
    { kind: 'dropped' },
  )
  expect(effects).toEqual(['drop now', 'begin', '', '', 'open', 'supervise', 'stop', 'drop now', 'end'])
  expect(lifecycle.state).toEqual({ kind: 'ended', end: end(true) })
})

test.each<[string, Lifecycle, LifecycleEvent, string, LifecycleState]>([
  [
    'a Postgres that was lost is saved from and rebuilt at once',
    inState('running'),
    { kind: 'lost', loss: { kind: 'postgresLost', problem: 'postgres ended' } },
    'report, drop saved',
    { kind: 'dropping', next: { kind: 'begin' } },
  ],
  [
    'without contact nothing is saved, and an election decides',
    inState('running'),
    { kind: 'lost', loss: { kind: 'leadLost', loss: { kind: 'noContact' }, problem: 'no contact' } },
    'drop now',
    { kind: 'dropping', next: { kind: 'begin' } },
  ],
  [
    'a compute with a successor ends',
    inState('running'),
    { kind: 'lost', loss: { kind: 'leadLost', loss: FENCED, problem: 'fenced' } },
    'drop now',
    { kind: 'dropping', next: { kind: 'end', end: FENCED } },
  ],
  [
    'a candidate with a successor ends',
    inState('electing'),
    { kind: 'failed', failure: { kind: 'leadLost', loss: { kind: 'superseded', term: 7 }, problem: 'late' } },
    'report, drop now',
    { kind: 'dropping', next: { kind: 'end', end: FENCED } },
  ],
  [
    'a beginning that failed is tried again',
    inState('electing'),
    { kind: 'failed', failure: OTHER },
    'report, drop saved',
    { kind: 'dropping', next: { kind: 'retry' } },
  ],
  [
    'a Postgres that is not adopted is ended before storage is asked',
    inState('adopting'),
    { kind: 'notAdopted', problem: 'another compute led in between' },
    'report, drop now',
    { kind: 'dropping', next: { kind: 'begin' } },
  ],
  [
    'a stop cuts a beginning short',
    inState('opening'),
    { kind: 'stopAsked', deadlineMs: 9 },
    'cancel',
    { kind: 'cancelling', deadlineMs: 9, isOpening: true },
  ],
  [
    'a session that opened all the same is stopped cleanly',
    at({ kind: 'cancelling', deadlineMs: 9, isOpening: true }),
    { kind: 'opened' },
    'stop',
    { kind: 'stopping' },
  ],
  [
    'a session that was made too late is dropped',
    at({ kind: 'cancelling', deadlineMs: 9, isOpening: false }),
    { kind: 'sessionMade' },
    'drop now',
    { kind: 'dropping', next: { kind: 'end', end: end(false) } },
  ],
  [
    'a stop does not undo that another compute was elected',
    at({ kind: 'dropping', next: { kind: 'end', end: FENCED } }),
    { kind: 'stopAsked', deadlineMs: 9 },
    'cancel',
    { kind: 'dropping', next: { kind: 'end', end: FENCED } },
  ],
  [
    'a stop ends a pause',
    inState('pausing'),
    { kind: 'stopAsked', deadlineMs: 9 },
    'cancel, drop now',
    { kind: 'dropping', next: { kind: 'end', end: end(false) } },
  ],
  [
    'a Postgres that is lost while it stops changes nothing',
    at({ kind: 'stopping' }),
    { kind: 'lost', loss: { kind: 'postgresLost', problem: 'postgres ended' } },
    '',
    { kind: 'stopping' },
  ],
])('%s', (_, from, event, effects, state) => {
  const step = decide(from, event)
  expect(kinds(step.effects)).toBe(effects)
  expect(step.state).toEqual(state)
})

test('a stop before the start begins nothing, and ends what an earlier life left', () => {
  const { lifecycle, effects } = follow(
    INITIAL_LIFECYCLE,
    { kind: 'stopAsked', deadlineMs: 5 },
    { kind: 'start', isPostgresLiving: true },
    { kind: 'dropped' },
  )
  expect(effects).toEqual(['', 'drop now', 'end'])
  expect(lifecycle.state).toEqual({ kind: 'ended', end: end(false) })
})

const failedTimes = (times: number, failure: Failure): Lifecycle =>
  follow(
    inState('electing'),
    ...Array.from({ length: times }, (): LifecycleEvent[] => [
      { kind: 'failed', failure },
      { kind: 'dropped' },
      { kind: 'pauseOver' },
    ]).flat(),
  ).lifecycle

test('pauses grow up to the longest, and the same problem is reported once', () => {
  const pauses: number[] = []
  let reports = 0
  let lifecycle = inState('electing')
  for (let i = 0; i < 9; i++) {
    for (const event of [
      { kind: 'failed', failure: OTHER },
      { kind: 'dropped' },
      { kind: 'pauseOver' },
    ] as const) {
      const step = decide(lifecycle, event)
      for (const effect of step.effects) if (effect.kind === 'pause') pauses.push(effect.meanMs)
      reports += step.effects.filter(({ kind }) => kind === 'report').length
      lifecycle = step
    }
  }
  expect(pauses).toEqual([
    200,
    400,
    800,
    1_600,
    3_200,
    RETRY_MAX_MS,
    RETRY_MAX_MS,
    RETRY_MAX_MS,
    RETRY_MAX_MS,
  ])
  expect(reports).toBe(1)
})

test('a failure lasts from the second in a row that does not pass by itself', () => {
  const port: Failure = { kind: 'precondition', problem: 'port 5432 is in use' }
  expect(isFailureLasting(failedTimes(1, port))).toBe(false)
  expect(isFailureLasting(failedTimes(2, port))).toBe(true)
  expect(isFailureLasting(failedTimes(5, OTHER))).toBe(false)
  expect(isFailureLasting(failedTimes(5, { kind: 'bootstrapInterrupted', problem: 'cut short' }))).toBe(false)
  const after = decide(failedTimes(2, port), { kind: 'failed', failure: OTHER })
  expect(isFailureLasting(after)).toBe(false)
})

test('a Postgres that ended by itself at its start is started with the last known good configuration', () => {
  const beginOf = (hasEndedByItself: boolean): LifecycleEffect | undefined => {
    const failure: Failure = { kind: 'postgresNotStarted', hasEndedByItself, problem: 'no start' }
    return decide(follow(inState('electing'), { kind: 'failed', failure }, { kind: 'dropped' }).lifecycle, {
      kind: 'pauseOver',
    }).effects[0]
  }
  expect(beginOf(true)).toEqual({ kind: 'begin', configuration: 'lastKnownGood' })
  expect(beginOf(false)).toEqual({ kind: 'begin', configuration: 'newest' })
  // It stays suspect over a failure that says nothing of it, and no longer than until a session runs.
  const suspect = { ...inState('electing'), trouble: { ...NO_TROUBLE, isConfigurationSuspect: true } }
  expect(decide(suspect, { kind: 'failed', failure: OTHER }).trouble.isConfigurationSuspect).toBe(true)
  expect(decide({ ...suspect, state: { kind: 'opening' } }, { kind: 'opened' }).trouble).toEqual(NO_TROUBLE)
})

test('an interrupted bootstrap is shown until storage says otherwise', () => {
  const failure: Failure = { kind: 'bootstrapInterrupted', problem: 'cut short' }
  const interrupted = follow(inState('electing'), { kind: 'failed', failure }, { kind: 'dropped' }).lifecycle
  expect(interrupted.trouble.isBootstrapInterrupted).toBe(true)
  const later = follow(interrupted, { kind: 'pauseOver' }, { kind: 'phase', phase: 'rebuilding' }).lifecycle
  expect(later.trouble.isBootstrapInterrupted).toBe(false)
})

const FAILURES: readonly Failure[] = [
  OTHER,
  { kind: 'precondition', problem: 'port' },
  { kind: 'bootstrapInterrupted', problem: 'cut short' },
  { kind: 'postgresNotStarted', hasEndedByItself: true, problem: 'no start' },
  { kind: 'leadLost', loss: { kind: 'noContact' }, problem: 'no contact' },
  { kind: 'leadLost', loss: { kind: 'staleMembership' }, problem: 'stale' },
  { kind: 'leadLost', loss: FENCED, problem: 'fenced' },
]
const failed = (index: number): LifecycleEvent => ({
  kind: 'failed',
  failure: FAILURES[index % FAILURES.length] as Failure,
})

/**
 * The things that run beside the machine: the work of its last effect, a Postgres, and the orders that were given.
 * `chance` draws the outcome of the work.
 */
const LATE = ['supervise, stop', 'pause, drop']

class World {
  lifecycle: Lifecycle = INITIAL_LIFECYCLE
  work: LifecycleEffect['kind'] | undefined
  /** Of this life of the process. */
  sessions = 0
  /** Left by the life before. */
  hasOldPostgres: boolean
  isStopAsked = false
  isFinallyLost = false
  ends: string[] = []

  constructor(hasOldPostgres: boolean) {
    this.hasOldPostgres = hasOldPostgres
  }

  feed(event: LifecycleEvent): void {
    const { state, trouble, effects } = decide(this.lifecycle, event)
    this.lifecycle = { state, trouble }
    for (const effect of effects) this.carryOut(effect)
    if (state.kind === 'running' || state.kind === 'opening' || state.kind === 'stopping')
      expect(this.sessions).toBe(1)
    expect(typeof phaseOf(this.lifecycle)).toBe('string')
  }

  carryOut(effect: LifecycleEffect): void {
    if (effect.kind === 'report' || effect.kind === 'cancel') return
    if (effect.kind === 'end') {
      expect([this.sessions, this.hasOldPostgres]).toEqual([0, false])
      return void this.ends.push(effect.end.kind)
    }
    if (effect.kind === 'begin' || effect.kind === 'adopt') {
      expect(this.sessions).toBe(0)
      expect([this.isStopAsked, this.isFinallyLost, this.ends]).toEqual([false, false, []])
      if (effect.kind === 'begin') expect(this.hasOldPostgres).toBe(false)
    }
    // One thing at a time is under way. Earlier work answers late: to a session that stops, or after a pause was cut
    // short.
    if (this.work !== undefined) expect(LATE).toContain(`${this.work}, ${effect.kind}`)
    if (this.work === 'pause') this.feed({ kind: 'pauseOver' })
    this.work = effect.kind
  }

  /** The work under way gets an outcome. */
  answer(chance: number): void {
    const { work } = this
    this.work = undefined
    switch (work) {
      case 'adopt':
        if (chance % 3 === 0) return this.feed({ kind: 'notAdopted', problem: 'doubt' })
        if (chance % 3 === 1) return this.lose(failed(chance))
        this.hasOldPostgres = false
        this.sessions++
        return this.feed({ kind: 'sessionMade' })
      case 'begin':
        if (chance % 2 === 0) return this.lose(failed(chance))
        this.feed({ kind: 'phase', phase: chance % 3 === 0 ? 'bootstrapping' : 'rebuilding' })
        this.sessions++
        return this.feed({ kind: 'sessionMade' })
      case 'open':
        return chance % 2 === 0 ? this.lose(failed(chance)) : this.feed({ kind: 'opened' })
      case 'supervise': {
        if (chance % 2 === 0)
          return this.feed({ kind: 'lost', loss: { kind: 'postgresLost', problem: `lost ${chance % 3}` } })
        const loss = chance % 3 === 0 ? FENCED : ({ kind: 'noContact' } as const)
        this.isFinallyLost ||= loss.kind === 'fenced' && this.lifecycle.state.kind === 'running'
        return this.feed({ kind: 'lost', loss: { kind: 'leadLost', loss, problem: 'lost' } })
      }
      case 'stop':
        return this.feed({ kind: 'stopped', clean: chance % 2 === 0 })
      case 'drop':
        this.sessions = 0
        this.hasOldPostgres = false
        return this.feed({ kind: 'dropped' })
      case 'pause':
        return this.feed({ kind: 'pauseOver' })
      default:
        return undefined
    }
  }

  /** Where a stop was asked before, it is that which ends the compute. */
  lose(event: LifecycleEvent): void {
    if (event.kind === 'failed' && event.failure.kind === 'leadLost' && event.failure.loss.kind === 'fenced')
      this.isFinallyLost ||= !this.isStopAsked
    this.feed(event)
  }

  stop(): void {
    this.isStopAsked = true
    this.feed({ kind: 'stopAsked', deadlineMs: 5 })
  }
}

test('in any order of events: one session at most, nothing after a stop, fenced after a final loss, and an end', () => {
  const happening = fc.oneof(
    { weight: 20, arbitrary: fc.nat(10_000) },
    { weight: 1, arbitrary: fc.constant('stop' as const) },
  )
  fc.assert(
    fc.property(fc.boolean(), fc.array(happening, { maxLength: 80 }), (hasOldPostgres, happenings) => {
      const world = new World(hasOldPostgres)
      world.feed({ kind: 'start', isPostgresLiving: hasOldPostgres })
      for (const each of happenings) {
        if (each === 'stop') world.stop()
        else world.answer(each)
      }
      // From then on nothing but what a stop needs.
      world.stop()
      for (let i = 0; i < 10 && world.ends.length === 0; i++) world.answer(i)
      expect(world.ends).toEqual([world.isFinallyLost ? 'fenced' : 'stopped'])
    }),
    { numRuns: 2_000 },
  )
})

test('an event that is not expected changes nothing', () => {
  const states: LifecycleState[] = [
    { kind: 'idle', isStopAsked: false },
    { kind: 'electing' },
    { kind: 'opening' },
    { kind: 'running' },
    { kind: 'stopping' },
    { kind: 'pausing' },
    { kind: 'dropping', next: { kind: 'begin' } },
    { kind: 'ended', end: end(true) },
  ]
  const late: LifecycleEvent[] = [
    { kind: 'notAdopted', problem: 'late' },
    { kind: 'pauseOver' },
    { kind: 'dropped' },
    { kind: 'opened' },
    { kind: 'stopped', clean: true },
  ]
  const expected = new Set(['pausing pauseOver', 'dropping dropped', 'opening opened', 'stopping stopped'])
  for (const state of states) {
    for (const event of late) {
      const step = decide(at(state), event)
      if (!expected.has(`${state.kind} ${event.kind}`)) expect(step).toEqual({ ...at(state), effects: [] })
    }
  }
})
