/** Goal: logs are compared and cut as the protocol says. Method: tables. */
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { compareLogs, highestCommonPoint, historyUpTo, isWellFormedHistory } from './term-history.ts'
import type { TermHistory } from './term-history.ts'

/** `0@0 1@10 3@20` */
const history = (text: string): TermHistory =>
  text.split(' ').map((entry) => {
    const [term, start] = entry.split('@').map(Number)
    return { term: term as number, startLsn: lsn(start as number) }
  })

test.each([
  // proposer, acceptor, the acceptor's flush position, where they part
  ['0@0 1@0', '0@0', 0, 0],
  ['0@0 1@0 2@50', '0@0 1@0', 50, 50],
  ['0@0 1@0 2@50', '0@0 1@0', 30, 30],
  ['0@0 1@0 2@50', '0@0 1@0', 70, 50],
  ['0@0 1@0 3@50', '0@0 1@0 2@40', 60, 40],
  ['0@0 1@0 3@50', '0@0 1@0 2@60', 70, 50],
  ['0@0 1@0 3@50', '0@0 2@0', 70, 0],
  ['0@0 1@0 2@50', '0@0 1@0 2@50', 80, 80],
])('proposer %s and acceptor %s flushed to %i part at %i', (proposer, acceptor, flush, common) => {
  expect(highestCommonPoint(history(proposer), history(acceptor), lsn(flush))).toBe(common)
})

test('a term that starts right at the end of a log belongs to it, one beyond does not', () => {
  expect(historyUpTo(history('0@0 1@0 2@50 3@60'), lsn(50))).toEqual(history('0@0 1@0 2@50'))
})

test('the later term beats the longer log', () => {
  expect(
    compareLogs({ lastLogTerm: 2, flushLsn: lsn(10) }, { lastLogTerm: 1, flushLsn: lsn(90) }),
  ).toBeGreaterThan(0)
  expect(
    compareLogs({ lastLogTerm: 2, flushLsn: lsn(10) }, { lastLogTerm: 2, flushLsn: lsn(11) }),
  ).toBeLessThan(0)
})

test.each([
  ['0@8 1@8', true],
  ['0@8 1@8 2@16', true],
  ['0@0 1@8', false],
  ['1@8', false],
  ['0@8 2@9 2@10', false],
  ['0@8 2@19 3@10', false],
])('history %s is well formed: %s', (text, expected) => {
  expect(isWellFormedHistory(history(text), lsn(8))).toBe(expected)
})
