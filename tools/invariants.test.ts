// Goal: every rule I1 to I10 has a place in the code and a test, and docs/invariants.md names them.
// Method: each row of the page is looked up.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ROOT } from './run-command.ts'

const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8')
const rows = [
  ...read('docs/invariants.md').matchAll(
    /^\| (I\d+) \| `([^`]+)` \| `?(.+?)`?(?: [a-z ]+)? \| `([^`]+)` \|$/gm,
  ),
]

test('every rule has a row', () => {
  const named = new Set(rows.map(([, rule]) => rule))
  expect([...named]).toEqual(Array.from({ length: 10 }, (_, i) => `I${i + 1}`))
})

test.each(rows.map(([, rule, path, text, shown]) => ({ rule, path, text, shown })))(
  '$rule in $path',
  ({ path = '', text = '', shown = '' }) => {
    expect(read(path)).toContain(/^([^`]+)/.exec(text)?.[1])
    expect(existsSync(join(ROOT, shown)), shown).toBe(true)
  },
)
