// Goal: neighbours of a rolling upgrade always agree, strangers never. Method: a table of ranges, and of what was sent
// before there were ranges.
import { expect, test } from 'vitest'
import { agreeOnVersion, checkChosenVersion } from './protocol-version.ts'

const offer = (protocolVersion: number, protocolVersionMax: number) => ({
  protocolVersion,
  protocolVersionMax,
})

test.each([
  { name: 'both know one', ours: { min: 1, max: 1 }, theirs: offer(1, 1), version: 1 },
  { name: 'an older opener that sends no range', ours: { min: 1, max: 3 }, theirs: offer(1, 0), version: 1 },
  { name: 'a newer opener', ours: { min: 1, max: 2 }, theirs: offer(1, 3), version: 2 },
  { name: 'an older opener', ours: { min: 1, max: 3 }, theirs: offer(1, 2), version: 2 },
  { name: 'ranges that only touch', ours: { min: 2, max: 3 }, theirs: offer(1, 2), version: 2 },
])('$name: version $version', ({ ours, theirs, version }) => {
  expect(agreeOnVersion('a conversation', ours, theirs)).toBe(version)
})

test.each([
  { name: 'an opener that is too old', ours: { min: 2, max: 3 }, theirs: offer(1, 0) },
  { name: 'an opener that is too new', ours: { min: 1, max: 2 }, theirs: offer(3, 4) },
  { name: 'an opener that names none', ours: { min: 1, max: 2 }, theirs: offer(0, 0) },
  { name: 'a range the wrong way round', ours: { min: 1, max: 9 }, theirs: offer(3, 2) },
])('$name is refused', ({ ours, theirs }) => {
  expect(() => agreeOnVersion('a conversation', ours, theirs)).toThrow(/speaks versions/)
})

test('the opener takes the version that was chosen, and an answer from before the range as 1', () => {
  expect(checkChosenVersion('a conversation', { min: 1, max: 2 }, 2)).toBe(2)
  expect(checkChosenVersion('a conversation', { min: 1, max: 2 }, 0)).toBe(1)
  expect(() => checkChosenVersion('a conversation', { min: 2, max: 3 }, 0)).toThrow(/chose version 1/)
  expect(() => checkChosenVersion('a conversation', { min: 1, max: 2 }, 3)).toThrow(/chose version 3/)
})
