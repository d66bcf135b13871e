/**
 * `/metrics` of the control plane in Prometheus's text format: positions and counters of everything it can reach,
 * asked for at each scrape.
 */
import { createServer } from 'node:http'
import { describeError, refuse } from '@understory/base'
import type { ShardStatus } from '@understory/rpc'
import type { TimelineView } from './timeline-view.ts'

interface Metric {
  readonly name: string
  readonly kind: 'counter' | 'gauge'
  readonly help: string
  readonly of: (shard: ShardStatus) => number
}

const SHARD_METRICS: readonly Metric[] = [
  {
    name: 'understory_shard_ingested_lsn_bytes',
    kind: 'gauge',
    help: 'WAL position ingested',
    of: (s) => Number(s.ingestedLsn),
  },
  {
    name: 'understory_shard_remote_consistent_lsn_bytes',
    kind: 'gauge',
    help: 'WAL position durable in the object store',
    of: (s) => Number(s.remoteConsistentLsn),
  },
  {
    name: 'understory_shard_wal_bytes_total',
    kind: 'counter',
    help: 'WAL ingested',
    of: (s) => Number(s.walBytes),
  },
  {
    name: 'understory_shard_wal_images_total',
    kind: 'counter',
    help: 'full-page images that came in the WAL',
    of: (s) => Number(s.walImages),
  },
  {
    name: 'understory_shard_generated_images_total',
    kind: 'counter',
    help: 'page images made by the shard',
    of: (s) => Number(s.generatedImages),
  },
  {
    name: 'understory_shard_chain_records_max',
    kind: 'gauge',
    help: 'longest delta chain of a page',
    of: (s) => s.chainMax,
  },
  {
    name: 'understory_shard_get_pages_total',
    kind: 'counter',
    help: 'pages read',
    of: (s) => Number(s.getPages),
  },
  { name: 'understory_shard_layers', kind: 'gauge', help: 'layers', of: (s) => s.layers },
  {
    name: 'understory_shard_layer_bytes',
    kind: 'gauge',
    help: 'bytes of layers',
    of: (s) => Number(s.layerBytes),
  },
  {
    name: 'understory_shard_stopped',
    kind: 'gauge',
    help: '1 where the shard has stopped with a failure',
    of: (s) => (s.failure === '' ? 0 : 1),
  },
]

export function renderMetrics(views: readonly TimelineView[]): string {
  const lines: string[] = []
  for (const { name, kind, help, of } of SHARD_METRICS) {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${kind}`)
    for (const { tenant, timeline, observed } of views) {
      observed.shards.forEach((shard, number) => {
        if (shard === undefined) return
        lines.push(
          `${name}{tenant="${tenant.tenantId}",timeline="${timeline.timelineId}",shard="${number}"} ${of(shard)}`,
        )
      })
    }
  }
  return `${lines.join('\n')}\n`
}

export interface MetricsPage {
  readonly port: number
  stop(): Promise<void>
}

/** Serves `/metrics`. Error: refused `precondition` when the port is taken. */
export async function serveMetrics(
  host: string,
  port: number,
  views: () => Promise<readonly TimelineView[]>,
): Promise<MetricsPage> {
  const server = createServer((request, response) => {
    if (request.url !== '/metrics') {
      response.writeHead(404).end('see /metrics\n')
      return
    }
    views().then(
      (all) =>
        response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(renderMetrics(all)),
      (error: unknown) => response.writeHead(503).end(`${describeError(error)}\n`),
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        refuse('precondition', `could not listen on ${host}:${port}`, {
          cause,
          hint: 'Choose another port, or stop what is using this one.',
        }),
      ),
    )
    server.listen(port, host, resolve)
  })
  const address = server.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : port,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
