import type { Lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { AnswerTimes } from './answer-times.ts'

const at = (lsn: number): Lsn => lsn as Lsn

test('safekeepers are far when even the fastest answer takes long, for as long as no faster one comes', () => {
  const times = new AnswerTimes()
  expect(times.areFar).toBe(false)
  times.sent('a', at(100), 0)
  // Sent while the first is on its way: it would only show how long that one took.
  times.sent('a', at(200), 4)
  times.answered('a', at(90), 4.5)
  expect(times.areFar).toBe(false)
  times.answered('a', at(100), 5)
  expect(times.areFar).toBe(true)

  times.sent('b', at(300), 1_000)
  times.answered('b', at(300), 1_001)
  expect(times.areFar).toBe(false)
  // Busy, but near.
  times.sent('b', at(400), 7_000)
  times.answered('b', at(400), 7_030)
  expect(times.areFar).toBe(false)
  // The fast answer is too long ago.
  times.sent('b', at(500), 13_000)
  times.answered('b', at(500), 13_030)
  expect(times.areFar).toBe(true)
})

test('an answer that will never come is not waited for', () => {
  const times = new AnswerTimes()
  times.sent('a', at(100), 0)
  times.forget('a')
  times.sent('a', at(50), 10)
  times.answered('a', at(50), 13)
  expect(times.areFar).toBe(true)
})
