// Goal: docs/metrics.md has what the tables say, and the tables keep to the rules. Method: render and compare; walk
// them.
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { prometheusName } from '@understory/telemetry'
import { METRICS_PAGE, TABLES, renderMetricsPage } from './metrics-page.ts'

const all = Object.values(TABLES).flatMap((table) => Object.values(table))

test('docs/metrics.md is what `npm run docs:metrics` writes', () => {
  expect(readFileSync(METRICS_PAGE, 'utf8')).toBe(renderMetricsPage())
})

test('no two metrics have one name, as OpenTelemetry or as Prometheus has it', () => {
  expect(new Set(all.map(({ name }) => name)).size).toBe(all.length)
  expect(new Set(all.map(prometheusName)).size).toBe(all.length)
})

test('names, units and edges keep to the rules', () => {
  for (const { name, unit, kind, edges, help } of all) {
    expect(name).toMatch(/^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$/)
    expect(name).not.toMatch(/total|bytes|seconds/)
    expect(unit).toMatch(/^(s|By|By\/s|1|\{[a-z]+\})$/)
    expect(help).toMatch(/[^.]$/)
    expect(edges !== undefined).toBe(kind === 'histogram')
    expect([...(edges ?? [])].toSorted((a, b) => a - b)).toEqual([...(edges ?? [])])
  }
})
