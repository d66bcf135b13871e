// Goal: the switch never skips or reorders a step of rule I5. Method: tables over the pure plan.
import { expect, test } from 'vitest'
import {
  beginSwitch,
  completeStep,
  hasDrifted,
  nextStep,
  requestSwitch,
  startsWithSettingOff,
  stepLsn,
} from './fpw-switch.ts'
import { FPW_INITIAL } from '../documents/timeline-document.ts'
import type { FpwState } from '../documents/timeline-document.ts'

/** Carries out every step and returns their order. */
function runToEnd(state: FpwState): { order: string[]; state: FpwState } {
  const order: string[] = []
  for (let step = nextStep(state); step !== undefined; step = nextStep(state)) {
    order.push(step)
    state = completeStep(state, step, `0/${order.length}`, 5, 1_000 + order.length)
  }
  return { order, state }
}

test('full_page_writes goes off only after image generation is on', () => {
  const { order, state } = runToEnd(requestSwitch(FPW_INITIAL, 'off', 1_000))
  expect(order).toEqual(['image_generation', 'setting', 'seen_in_wal'])
  expect(state).toMatchObject({ phase: 'off', wanted: 'off', sinceLsn: '0/3', tookMs: 3, generation: 1 })
})

test('image generation ends only after a checkpoint past the record that switched on', () => {
  const off = runToEnd(requestSwitch(FPW_INITIAL, 'off', 0)).state
  const { order, state } = runToEnd(requestSwitch(off, 'on', 1_000))
  expect(order).toEqual(['setting', 'seen_in_wal', 'checkpoint', 'image_generation_off'])
  expect(state.phase).toBe('on')
  expect(stepLsn(state, 'seen_in_wal')).toBe('0/2')
})

test('a repeated request changes nothing, an opposite one starts the other plan', () => {
  const asked = requestSwitch(FPW_INITIAL, 'off', 0)
  expect(requestSwitch(asked, 'off', 9)).toBe(asked)
  const halfWay = completeStep(asked, 'image_generation', '0/0', 1, 1)
  expect(nextStep(requestSwitch(halfWay, 'on', 2))).toBe('setting')
})

test('a change that was not asked for is drift, but not while a switch is under way', () => {
  const off = runToEnd(requestSwitch(FPW_INITIAL, 'off', 0)).state
  expect(off.sinceLsn).toBe('0/3')
  expect(hasDrifted(off, { value: 'on', lsn: '0/4' })).toBe(true)
  // A shard that started again, and reads what was before the switch.
  expect(hasDrifted(off, { value: 'on', lsn: '0/2' })).toBe(false)
  expect(hasDrifted(off, { value: 'off', lsn: '0/4' })).toBe(false)
  expect(hasDrifted(off, undefined)).toBe(false)
  const again = beginSwitch(off, 5)
  expect(hasDrifted(again, { value: 'on', lsn: '0/4' })).toBe(false)
  // A late message for the plan before is recognized.
  expect(again.generation).toBe(off.generation + 1)
})

test('a compute rebuilt half way starts with the setting off only where every shard makes images', () => {
  expect(startsWithSettingOff(FPW_INITIAL)).toBe(false)
  const asked = requestSwitch(FPW_INITIAL, 'off', 0)
  expect(startsWithSettingOff(asked)).toBe(false)
  const ready = completeStep(asked, 'image_generation', '0/0', 1, 1)
  expect(startsWithSettingOff(ready)).toBe(true)
  expect(startsWithSettingOff(requestSwitch(ready, 'on', 2))).toBe(false)
  const off = runToEnd(asked).state
  expect(startsWithSettingOff(off)).toBe(true)
  // After drift the plan begins again, and so does the proof that the shards make images.
  expect(startsWithSettingOff(beginSwitch(off, 5))).toBe(false)
})
