/** `npm run docs:metrics`: docs/metrics.md from the tables of the apps. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { OPEN, PROCESS_METRICS, prometheusLabel, prometheusName } from '@understory/telemetry'
import type { LabelTable, MetricSpec, MetricTable } from '@understory/telemetry'
import { METRICS as COMPUTE_METRICS } from '../apps/compute-proxy/src/telemetry/metrics.ts'
import { METRICS as CONTROL_METRICS } from '../apps/control-plane/src/telemetry/metrics.ts'
import { METRICS as PAGESERVER_METRICS } from '../apps/pageserver/src/telemetry/metrics.ts'
import { METRICS as SAFEKEEPER_METRICS } from '../apps/safekeeper/src/telemetry/metrics.ts'
import { ROOT } from './run-command.ts'

export const METRICS_PAGE = join(ROOT, 'docs/metrics.md')

/** Every table, under the heading that its part of the page has. */
export const TABLES: Readonly<Record<string, MetricTable>> = {
  'Every service': PROCESS_METRICS,
  Safekeeper: SAFEKEEPER_METRICS,
  'Compute (compute-proxy)': COMPUTE_METRICS,
  Pageserver: PAGESERVER_METRICS,
  'Control plane': CONTROL_METRICS,
}

function labelsOf(labels: LabelTable): string {
  const names = Object.entries(labels).map(([name, values]) => {
    const label = `\`${prometheusLabel(name)}\``
    return values === OPEN ? label : `${label}: ${values.join(', ')}`
  })
  return names.join('; ')
}

const rowOf = (spec: MetricSpec): string =>
  `| \`${prometheusName(spec)}\` | ${spec.kind} | \`${spec.name}\`, ${spec.unit} | ${labelsOf(spec.labels)} | ${spec.help} |`

export function renderMetricsPage(): string {
  const parts = Object.entries(TABLES).map(
    ([title, table]) => `## ${title}

| series | kind | OpenTelemetry name, unit | labels | meaning |
|---|---|---|---|---|
${Object.values(table).map(rowOf).join('\n')}
`,
  )
  return `# Metrics

Written by \`npm run docs:metrics\` from the tables \`apps/*/src/metrics.ts\`; do not edit. *Series* is the name in
Prometheus, by \`/metrics\` as well as by OTLP; a histogram has \`_bucket\`, \`_sum\` and \`_count\`. Every series carries the
label \`node\`, the name of its process. [telemetry.md](telemetry.md) says how to turn them on.

${parts.join('\n')}`
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  if (process.argv.includes('--help'))
    process.stdout.write('Usage: npm run docs:metrics: writes docs/metrics.md.\n')
  else writeFileSync(METRICS_PAGE, renderMetricsPage())
}
