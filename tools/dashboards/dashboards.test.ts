// Goal: what the chart ships is what the plans say, and every query names metrics that are there. Method: render,
// compare.
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { prometheusName } from '@understory/telemetry'
import { expect, test } from 'vitest'
import { TABLES } from '../metrics-page.ts'
import { ROOT } from '../run-command.ts'
import { ALERTS, runbookOf } from './alerts.ts'
import { BOARDS, buildBoard, expressionsOf } from './boards.ts'
import { renderedFiles } from './main.ts'

const RUNBOOKS = join(ROOT, 'docs/runbooks')

test('the files of the chart are what `npm run docs:dashboards` writes', () => {
  for (const [path, text] of renderedFiles()) expect(readFileSync(path, 'utf8'), path).toBe(text)
})

/** Names of all series that there are. */
function seriesNames(): Set<string> {
  const known = new Set<string>()
  for (const metric of Object.values(TABLES).flatMap((table) => Object.values(table))) {
    const name = prometheusName(metric)
    if (metric.kind === 'histogram') for (const end of ['_bucket', '_sum', '_count']) known.add(name + end)
    else known.add(name)
  }
  return known
}

test('every series that a panel or an alert asks for is in a table', () => {
  const known = seriesNames()
  const asked = [
    ...BOARDS.flatMap(expressionsOf),
    ...ALERTS.flatMap(({ expr, series }) => [expr, ...series]),
  ].flatMap((expr) => expr.match(/\b(?:understory|nodejs|v8js|process|rpc)_[a-z0-9_]+/g) ?? [])
  expect(asked.length).toBeGreaterThan(50)
  // Labels, which begin like a metric.
  const labels = new Set(['rpc_method'])
  expect(asked.filter((name) => !known.has(name) && !labels.has(name))).toEqual([])
})

test('every panel has a title of its own on its board, a help, a unit, and lies beside no other', () => {
  for (const board of BOARDS) {
    const panels = board.rows.flatMap((row) => row.panels)
    expect(new Set(panels.map(({ title }) => title)).size).toBe(panels.length)
    for (const { title, help, unit } of panels)
      expect([title, help.length > 4, unit !== '']).toEqual([title, true, true])
    const places = (buildBoard(board).panels ?? []).map(({ gridPos }) => JSON.stringify(gridPos))
    expect(new Set(places).size).toBe(places.length)
  }
})

test('runbooks name only lines of the log that are written, and series that there are', () => {
  const isSource = (path: string): boolean => path.endsWith('.ts') && !path.includes('test')
  const written = new Set<string>()
  for (const part of ['apps', 'libs'])
    for (const path of readdirSync(join(ROOT, part), { recursive: true, encoding: 'utf8' }).filter(isSource))
      for (const [, event] of readFileSync(join(ROOT, part, path), 'utf8').matchAll(
        /'([a-z]+(?:_[a-z]+)+)'/g,
      ))
        written.add(event as string)
  const named = readdirSync(RUNBOOKS).flatMap((file) =>
    (readFileSync(join(RUNBOOKS, file), 'utf8').match(/\b[a-z]+(?:_[a-z]+)+\b/g) ?? []).map((event) => [
      file,
      event,
    ]),
  )
  // Postgres's own.
  const others = new Set(['full_page_writes', 'pg_settings', ...seriesNames()])
  expect(named.length).toBeGreaterThan(10)
  expect(named.filter(([, event = '']) => !written.has(event) && !others.has(event))).toEqual([])
})

test('every alert has its page, and every page its alert', () => {
  expect(ALERTS.length).toBeGreaterThan(9)
  expect(readdirSync(RUNBOOKS).toSorted()).toEqual(ALERTS.map(runbookOf).toSorted())
  for (const alert of ALERTS) {
    const page = readFileSync(join(RUNBOOKS, runbookOf(alert)), 'utf8')
    expect(page).toContain(`# ${alert.name}`)
    for (const head of ['## What it means', '## Look', '## Do']) expect(page).toContain(head)
  }
})
