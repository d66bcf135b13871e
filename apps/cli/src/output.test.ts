// Goal: nothing that a server or a tenant's Postgres says can steer the terminal of who reads it. Method: hostile text
// in every kind of output, with what was written captured.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { printFields, printJson, printLine, printRows, printable, progressLine } from './output.ts'

// Sets the clipboard, moves up a line, the same by C1, hides what follows, turns text around.
const HOSTILE = 'a\u001b]52;c;eA==\u0007b\u001b[1Ac\u009b2Jd\u009dx\u009ce\rf\ng\u007fh\u202ei'
// oxlint-disable-next-line no-control-regex
const STEERING = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/

let written = ''
const isTTY = process.stderr.isTTY
beforeEach(() => {
  written = ''
  for (const stream of [process.stdout, process.stderr])
    vi.spyOn(stream, 'write').mockImplementation((text) => {
      written += String(text)
      return true
    })
})
afterEach(() => {
  vi.restoreAllMocks()
  process.stderr.isTTY = isTTY
})

test.for([
  ['rows', () => printRows('table', [{ tenant: 'shop', failure: HOSTILE }]), 2],
  ['fields', () => printFields('table', { failure: HOSTILE }), 1],
  ['a line', () => printLine(HOSTILE), 1],
] as const)('%s stay within their lines', ([, print, lines]) => {
  print()
  expect(written).not.toMatch(STEERING)
  expect(written.split('\n')).toHaveLength(lines + 1)
  expect(written).toContain('a\ufffd]52;c;eA==\ufffdb')
})

test('a progress line has no other escape sequences than its own', () => {
  process.stderr.isTTY = true
  progressLine(HOSTILE)
  expect(written.startsWith('\r\u001b[K')).toBe(true)
  expect(written.slice('\r\u001b[K'.length)).not.toMatch(STEERING)
})

test('JSON says the same without raw controls', () => {
  printJson({ failure: HOSTILE })
  expect(written).not.toMatch(STEERING)
  expect(JSON.parse(written)).toEqual({ failure: HOSTILE })
})

test('text of several lines keeps them, and nothing else', () => {
  expect(printable('a\n\tb\r\u001bc', 'several lines')).toBe('a\n\tb\ufffd\ufffdc')
})
