// Goal: a shard that has stopped is attached again at once, and ever more seldom where it stops again.
// Method: a clock that the test moves.
import type { Clock } from '@understory/env'
import { realClock } from '@understory/env'
import { ShardStatus } from '@understory/rpc'
import { expect, test } from 'vitest'
import { ShardRecovery } from './shard-recovery.ts'

function world() {
  let nowMs = 1_000
  const clock: Clock = { ...realClock, nowMs: () => nowMs }
  return { recovery: new ShardRecovery(clock), pass: (ms: number) => void (nowMs += ms) }
}

test('the first try is at once, the pauses double up to ten minutes, each shard for itself', () => {
  const { recovery, pass } = world()
  const pauses: number[] = []
  expect(recovery.isDue(0)).toBe(true)
  for (let tried = 0; tried < 9; tried++) {
    let waitedS = 0
    for (; !recovery.isDue(0); waitedS++) pass(1_000)
    pauses.push(waitedS)
  }
  expect(pauses).toEqual([10, 20, 40, 80, 160, 320, 600, 600, 600])
  expect(recovery.triesOf(0)).toBe(10)
  expect(recovery.triesOf(1)).toBe(0)
  expect(recovery.isDue(1)).toBe(true)
})

test('a shard that serves for a moment between its stops does not begin again with short pauses', () => {
  const { recovery, pass } = world()
  recovery.isDue(0)
  pass(10_000)
  recovery.noteServing(0)
  recovery.isDue(0)
  expect(recovery.triesOf(0)).toBe(2)
  pass(40_001)
  recovery.noteServing(0)
  expect(recovery.triesOf(0)).toBe(0)
  expect(recovery.isDue(0)).toBe(true)
})

test('the cause that stops a shard is reported in words', () => {
  const { recovery } = world()
  const status = (fields: Partial<ShardStatus>): ShardStatus => ShardStatus.fromPartial(fields)
  expect(recovery.problemOf(0, status({}))).toBe('')
  expect(recovery.problemOf(0, status({ loading: true }))).toBe('loading its layers')
  expect(recovery.problemOf(0, status({ stall: 'layer write: full' }))).toBe('stalled: layer write: full')
  expect(recovery.problemOf(0, status({ failure: 'bad' }))).toBe('bad')
  recovery.isDue(0)
  expect(recovery.problemOf(0, status({ failure: 'bad' }))).toBe('bad (attached again once)')
})
