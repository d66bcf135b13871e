/**
 * Goal: the driver keeps what libs/consensus/README.md asks of one, whatever the transport does. Method: a transport
 * whose acceptors the test plays, and a clock that it moves.
 */
import { fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { seededRng, silentLog } from '@understory/env'
import type { Clock } from '@understory/env'
import { expect, test } from 'vitest'
import type { AppendMessage } from '../messages.ts'
import { DRIVER_LIMITS } from './limits.ts'
import type { KnownMembership } from './membership.ts'
import type { DriverOptions } from './options.ts'
import { ProposerDriver } from './proposer-driver.ts'
import type { ConnectionListener, Greeting, WalReadDone } from './transport.ts'

const at = (lsn: number): Lsn => lsn as Lsn
const START = at(1000)
const bytes = (length: number, value = 7): Uint8Array => new Uint8Array(length).fill(value)

interface Opened {
  readonly nodeId: string
  readonly address: string
  readonly greeting: Greeting
  readonly listener: ConnectionListener
  readonly votes: number[]
  readonly appends: AppendMessage[]
  electedCount: number
  isClosed: boolean
}

function manualClock() {
  let nowMs = 0
  const timers: { atMs: number; run: () => void }[] = []
  const clock: Clock = {
    nowMs: () => nowMs,
    wallMs: () => nowMs,
    sleep: () => Promise.reject(fail('unsupported', 'the driver sleeps by timers')),
    setTimer: (delayMs, run) => {
      const timer = { atMs: nowMs + delayMs, run }
      timers.push(timer)
      return {
        cancel: () => {
          const index = timers.indexOf(timer)
          if (index >= 0) timers.splice(index, 1)
        },
      }
    },
  }
  const pass = (durationMs: number): void => {
    const untilMs = nowMs + durationMs
    for (;;) {
      const next = timers.toSorted((a, b) => a.atMs - b.atMs)[0]
      if (next === undefined || next.atMs > untilMs) break
      timers.splice(timers.indexOf(next), 1)
      nowMs = next.atMs
      next.run()
    }
    nowMs = untilMs
  }
  return { clock, pass, timers }
}

const membershipOf = (generation: number, names: readonly string[]): KnownMembership => ({
  generation,
  members: names.map((nodeId) => ({ nodeId, address: `${nodeId}:1` })),
  newMembers: [],
})

function world(options: Partial<DriverOptions> = {}) {
  const { clock, pass, timers } = manualClock()
  const opened: Opened[] = []
  const reads: { readonly from: string; readonly startLsn: Lsn; readonly done: WalReadDone }[] = []
  const deferred: (() => void)[] = []
  const remembered: number[] = []
  const driver = new ProposerDriver({
    transport: {
      routeTo: ({ nodeId, address }) => ({
        open: (greeting, listener) => {
          const one: Opened = {
            nodeId,
            address,
            greeting,
            listener,
            votes: [],
            appends: [],
            electedCount: 0,
            isClosed: false,
          }
          opened.push(one)
          return {
            sendVote: ({ term }) => {
              expect(remembered).toContain(term)
              one.votes.push(term)
            },
            sendElected: () => one.electedCount++,
            sendAppend: (message) => one.appends.push(message),
            close: () => (one.isClosed = true),
          }
        },
        readWal: ({ startLsn }, _signal, done) => reads.push({ from: nodeId, startLsn, done }),
        close: () => undefined,
      }),
    },
    clock,
    rng: seededRng(1),
    log: silentLog,
    defer: (work) => deferred.push(work),
    membership: membershipOf(0, ['a', 'b', 'c']),
    timelineStartLsn: START,
    livingTerm: undefined,
    ownTerm: undefined,
    rememberTerm: (term) => void remembered.push(term),
    contactTimeoutMs: 20_000,
    ...options,
  })
  const newest = (nodeId: string): Opened => opened.findLast((one) => one.nodeId === nodeId) as Opened
  const greet = (nodeId: string, term = 0, membershipGeneration = 0): void =>
    newest(nodeId).listener.greeted({ nodeId, term, membershipGeneration, membership: undefined })
  const vote = (nodeId: string, flushLsn = START, commitLsn = at(0)): void =>
    newest(nodeId).listener.voted({
      term: driver.term,
      voteGiven: true,
      flushLsn,
      commitLsn,
      history: [{ term: 0, startLsn: START }],
    })
  const acknowledge = (nodeId: string, flushLsn: Lsn): void =>
    newest(nodeId).listener.appended({ term: driver.term, flushLsn, commitLsn: at(0) })
  /** `names` become the quorum of voters. */
  const elect = (names: readonly string[]): void => {
    for (const name of names) greet(name)
    for (const name of names) vote(name)
  }
  const push = (length: number, value?: number): void => {
    void driver.push(driver.endLsn, bytes(length, value), at(driver.endLsn + length))
  }
  const runDeferred = (): void => {
    for (const work of deferred.splice(0)) work()
  }
  const openCount = (nodeId: string): number => opened.filter((one) => one.nodeId === nodeId).length
  return {
    driver,
    opened,
    reads,
    remembered,
    deferred,
    timers,
    pass,
    newest,
    greet,
    vote,
    acknowledge,
    elect,
    push,
    runDeferred,
    openCount,
  }
}

test('a majority elects, and what it flushed is committed; all that came in one turn leaves as one append', async () => {
  const { driver, newest, elect, push, runDeferred, acknowledge, remembered } = world()
  expect(driver.commitLsn).toBe(0)
  elect(['a', 'b'])
  expect(await driver.elected).toEqual({ term: 1, startLsn: START, kind: 'rebuild' })
  expect(remembered).toEqual([1])
  push(10, 1)
  push(20, 2)
  expect(newest('a').appends).toEqual([])
  runDeferred()
  expect(newest('a').appends).toMatchObject([{ beginLsn: START, recordEndLsn: 1030 }])
  expect(newest('a').appends[0]?.wal).toEqual(new Uint8Array([...bytes(10, 1), ...bytes(20, 2)]))
  expect(newest('b').appends[0]?.wal).toBe(newest('a').appends[0]?.wal)
  expect(newest('c').appends).toEqual([])
  acknowledge('a', at(1030))
  expect(driver.commitLsn).toBe(0)
  acknowledge('b', at(1030))
  expect(driver.commitLsn).toBe(1030)
  await driver.waitForCommit(at(1030))
})

test('a term that could not be made durable is not asked for', () => {
  let isFull = true
  const { greet, newest, driver } = world({
    rememberTerm: () => {
      if (isFull) throw fail('disk_full', 'no room')
    },
  })
  greet('a')
  expect(() => greet('b')).toThrow('no room')
  expect(newest('a').votes).toEqual([])
  isFull = false
  driver.close()
})

test('pauses between connections grow up to their limit, and begin small again once one was answered', () => {
  const { pass, newest, greet, openCount } = world()
  const { reconnectMs, reconnectMsMax } = DRIVER_LIMITS
  const pauseMs = (): number => {
    const before = openCount('a')
    newest('a').listener.closed(fail('unavailable', 'it is not up'))
    for (let waitedMs = 0; ; waitedMs += 10) {
      if (openCount('a') > before) return waitedMs
      pass(10)
    }
  }
  expect(pauseMs()).toBeLessThanOrEqual(reconnectMs)
  pauseMs()
  const later = [pauseMs(), pauseMs(), pauseMs()]
  expect(Math.min(...later)).toBeGreaterThan(reconnectMs)
  expect(Math.max(...later)).toBeLessThanOrEqual(reconnectMsMax)
  greet('a')
  expect(pauseMs()).toBeLessThanOrEqual(reconnectMs)
})

test('what comes by a connection that was replaced does not count', () => {
  const { driver, newest, elect, push, runDeferred, acknowledge, pass, greet, vote } = world()
  elect(['a', 'b'])
  push(10)
  runDeferred()
  const old = newest('b')
  old.listener.closed(undefined)
  pass(DRIVER_LIMITS.reconnectMs)
  expect(newest('b')).not.toBe(old)
  old.listener.appended({ term: 1, flushLsn: at(1010), commitLsn: at(0) })
  old.listener.closed(fail('unavailable', 'again'))
  acknowledge('a', at(1010))
  expect(driver.commitLsn).toBe(0)
  // By the new one it is sent again.
  greet('b', 1)
  vote('b')
  expect(newest('b').appends).toMatchObject([{ beginLsn: START }])
  acknowledge('b', at(1010))
  expect(driver.commitLsn).toBe(1010)
})

test('a safekeeper of another name is not spoken to', () => {
  const { newest, driver, greet } = world()
  newest('a').listener.greeted({ nodeId: 'x', term: 0, membershipGeneration: 0, membership: undefined })
  expect(newest('a').isClosed).toBe(true)
  greet('b')
  expect(driver.state.phase).toBe('greeting')
})

test('a lead without contact to a majority is lost, and heartbeats keep it', async () => {
  const { driver, elect, pass, acknowledge, push } = world({ contactTimeoutMs: 3_000 })
  elect(['a', 'b'])
  for (let second = 0; second < 6; second++) {
    pass(1_000)
    acknowledge('a', START)
    acknowledge('b', START)
  }
  expect(driver.commitLsn).toBe(START)
  pass(2_000)
  acknowledge('a', START)
  push(1)
  pass(3_000)
  expect(await driver.lost).toEqual({ kind: 'noContact' })
  await expect(driver.push(driver.endLsn, bytes(1), driver.endLsn)).rejects.toMatchObject({
    code: 'unavailable',
  })
  await expect(driver.waitForCommit(at(5000))).rejects.toMatchObject({ loss: { kind: 'noContact' } })
})

test('a leader that finds a higher term than it ever asked for has a successor', async () => {
  const { driver, greet, opened, timers } = world({ ownTerm: 4 })
  greet('a', 4)
  greet('b', 5)
  expect(await driver.lost).toEqual({ kind: 'superseded', term: 5 })
  await expect(driver.elected).rejects.toMatchObject({ code: 'stale' })
  expect(opened.every(({ isClosed }) => isClosed)).toBe(true)
  expect(timers).toEqual([])
})

test('a leader continues under a newer membership, by new connections; a candidate ends', async () => {
  const { driver, elect, newest, acknowledge, push, runDeferred, greet, vote, openCount } = world()
  elect(['a', 'b'])
  push(10)
  runDeferred()
  const [before, leaving] = [newest('a'), newest('c')]
  driver.changeMembership(membershipOf(1, ['a', 'b', 'd']))
  expect(before.isClosed).toBe(true)
  expect(leaving.isClosed).toBe(true)
  expect(newest('a').greeting.membership.generation).toBe(1)
  expect([openCount('a'), openCount('b'), openCount('c'), openCount('d')]).toEqual([2, 2, 1, 1])
  before.listener.appended({ term: 1, flushLsn: at(1010), commitLsn: at(0) })
  for (const name of ['a', 'd']) {
    greet(name, 1, 1)
    vote(name)
    acknowledge(name, at(1010))
  }
  expect(driver.commitLsn).toBe(1010)

  const other = world()
  other.driver.changeMembership(membershipOf(1, ['a', 'b', 'd']))
  expect(await other.driver.lost).toEqual({ kind: 'staleMembership' })
})

test('a safekeeper that knows a newer membership reports it to a leader', () => {
  const { driver, elect, newest, openCount, pass } = world()
  elect(['a', 'b'])
  newest('a').listener.closed(fail('stale', 'membership has generation 1 now'))
  expect(openCount('a')).toBe(2)
  newest('a').listener.greeted({
    nodeId: 'a',
    term: 1,
    membershipGeneration: 1,
    membership: membershipOf(1, ['a', 'b', 'd']),
  })
  expect(driver.membershipGeneration).toBe(1)
  expect(newest('d').greeting.membership.generation).toBe(1)
  // A safekeeper that does not name the members is asked again later.
  newest('b').listener.greeted({ nodeId: 'b', term: 1, membershipGeneration: 2, membership: undefined })
  expect(newest('b').isClosed).toBe(true)
  const before = openCount('b')
  pass(DRIVER_LIMITS.reconnectMs)
  expect(openCount('b')).toBe(before + 1)
})

test('a member that moved is reached at its new address at once', () => {
  const { driver, newest } = world()
  driver.changeMembership({
    generation: 0,
    members: ['a', 'b', 'c'].map((nodeId) => ({ nodeId, address: nodeId === 'b' ? 'b:2' : `${nodeId}:1` })),
    newMembers: [],
  })
  expect(newest('b').address).toBe('b:2')
  expect(newest('a').address).toBe('a:1')
})

test('what one lacks is read from another, and asked for again after a failure', () => {
  const { greet, vote, elect, newest, reads, pass, acknowledge } = world()
  for (const name of ['a', 'b']) greet(name)
  vote('a', at(1020))
  vote('b')
  void elect
  expect(reads).toMatchObject([{ from: 'a', startLsn: START }])
  reads[0]?.done(undefined, fail('unavailable', 'it ended'))
  acknowledge('a', at(1020))
  pass(DRIVER_LIMITS.heartbeatMs)
  expect(reads).toHaveLength(2)
  reads[1]?.done(bytes(20, 9))
  expect(newest('b').appends.find(({ wal }) => wal.length > 0)).toMatchObject({
    beginLsn: START,
    wal: bytes(20, 9),
    recordEndLsn: 1020,
  })
})

test('where no donor has the WAL that a member lacks, a term that has committed nothing ends', async () => {
  const { driver, greet, vote, newest, pass } = world({ contactTimeoutMs: 60_000 })
  for (const name of ['a', 'b']) greet(name)
  vote('a', at(1020))
  vote('b')
  newest('a').listener.closed(fail('unavailable', 'it ended'))
  greet('c', 1)
  vote('c')
  pass(DRIVER_LIMITS.donorWaitMs + 2 * DRIVER_LIMITS.heartbeatMs)
  expect(await driver.lost).toEqual({ kind: 'noContact' })
})

test('an input that comes from an effect waits for the effects that follow it', () => {
  const inputs: string[] = []
  const observer = {
    received: () => undefined,
    pushed: () => undefined,
    sending: () => '',
    acknowledged: () => undefined,
    decided: () => undefined,
    committed: () => undefined,
    elected: () => driver.changeMembership(membershipOf(1, ['a', 'b', 'd'])),
    begins: () => undefined,
    membershipChanged: () => undefined,
    lost: () => undefined,
    stepped: (_before: unknown, input: { readonly kind: string }) => void inputs.push(input.kind),
  }
  const { driver, elect, newest } = world({ observer })
  elect(['a', 'b'])
  expect(inputs.slice(-4)).toEqual(['voted', 'disconnected', 'disconnected', 'membership'])
  expect(newest('a').greeting.membership.generation).toBe(1)
})

test('what is handed in waits while too much is uncommitted', async () => {
  const { driver, elect, push, runDeferred, acknowledge } = world({ limits: { bufferBytesMax: 15 } })
  elect(['a', 'b'])
  push(20)
  runDeferred()
  let isIn = false
  const waiting = driver.push(driver.endLsn, bytes(5), at(1025)).then(() => (isIn = true))
  await Promise.resolve()
  expect(isIn).toBe(false)
  for (const name of ['a', 'b']) acknowledge(name, at(1020))
  await waiting
  expect(driver.endLsn).toBe(1025)
})
