// Goal: progress is one moving line on a terminal, and few lines in a file. Method: a stream that keeps what is
// written.
import { expect, test } from 'vitest'
import { ProgressLine } from './progress-line.ts'

function written(isTTY: boolean): {
  readonly out: string[]
  readonly clock: { nowMs(): number; at: number }
  line: ProgressLine
} {
  const out: string[] = []
  const clock = { at: 0, nowMs: () => clock.at }
  const stream = { isTTY, write: (text: string) => out.push(text) }
  return { out, clock, line: new ProgressLine(stream, clock) }
}

test('into a file goes a line for each thing, and one in ten seconds while only its numbers change', () => {
  const { out, clock, line } = written(false)
  line.show('asking for the lead')
  for (let percent = 1; percent <= 100; percent++, clock.at += 250) line.show(`writing files, ${percent} %`)
  line.show('Postgres is starting')
  line.end()
  expect(out).toEqual([
    'asking for the lead\n',
    'writing files, 1 %\n',
    'writing files, 41 %\n',
    'writing files, 81 %\n',
    'Postgres is starting\n',
  ])
})

test('on a terminal one line moves, and the text that follows begins on a new line', () => {
  const { out, line } = written(true)
  line.show('writing files, 1 %')
  line.show('writing files, 2 %')
  line.show('Postgres is starting')
  line.end()
  line.end()
  expect(out.join('')).toBe(
    '\r\u001b[Kwriting files, 1 %\r\u001b[Kwriting files, 2 %\n\r\u001b[KPostgres is starting\n',
  )
})
