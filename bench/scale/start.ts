/** A pageserver process over a folder with shards, from its start to the first page that a client gets. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fail } from '@understory/base'
import { PLAIN_CLIENT, PageserverServiceClient, createClient, openBidi } from '@understory/rpc'
import { PAGE_FOUND, encodePageRequests } from '@understory/storage'
import { appCommand, freePort, startProcess } from '@understory/testcontainers'
import { SYNTHETIC_LSN, syntheticKey, syntheticOwner } from './synthetic.ts'

export interface StartFigures {
  readonly shards: number
  readonly layers: number
  /** From the start of the process until it listens, all shards loaded. */
  readonly listeningMs: number
  /** From then until a client that connects has a page. */
  readonly firstPageMs: number
  readonly rssMebibytes: number
  readonly peakRssMebibytes: number
}

const STARTED = /"event":"started"/
const START_TIMEOUT_MS = 600_000
/** Nothing listens there: the announcement is tried again and again, beside all else. */
const NO_BROKER = 'grpc://127.0.0.1:9'

export async function measureStart(folder: string, shards: number, layers: number): Promise<StartFigures> {
  const port = await freePort()
  const [command = '', ...flags] = await appCommand('pageserver')
  const args = [
    ...flags,
    '--listen',
    `127.0.0.1:${port}`,
    '--data-dir',
    join(folder, 'local'),
    '--object-store',
    join(folder, 'objects'),
    '--broker',
    NO_BROKER,
  ]
  const startMs = performance.now()
  await using pageserver = await startProcess({
    name: 'pageserver',
    command,
    args,
    ready: STARTED,
    readyTimeoutMs: START_TIMEOUT_MS,
  })
  const listeningMs = performance.now() - startMs
  const pageMs = await firstPage(port, shards >> 1)
  const rssMebibytes = await memoryOf(pageserver.pid, 'VmRSS')
  const peakRssMebibytes = await memoryOf(pageserver.pid, 'VmHWM')
  await pageserver.stop('SIGKILL')
  return { shards, layers, listeningMs, firstPageMs: pageMs, rssMebibytes, peakRssMebibytes }
}

/** Milliseconds. */
async function firstPage(port: number, number: number): Promise<number> {
  const startMs = performance.now()
  const client = createClient(PLAIN_CLIENT, PageserverServiceClient, `127.0.0.1:${port}`)
  try {
    const { tenantId, timelineId, shard } = syntheticOwner(number)
    const stream = openBidi(client.getPages.bind(client))
    await stream.send({
      timeline: { tenantId, timelineId },
      shard,
      requests: encodePageRequests([{ key: syntheticKey(1), lsn: SYNTHETIC_LSN }]),
    })
    const { value } = await stream.messages.next()
    if (value?.statuses[0] !== PAGE_FOUND) throw fail('precondition', 'the first page was not found')
    stream.cancel()
    return performance.now() - startMs
  } finally {
    client.close()
  }
}

/** MiB. */
async function memoryOf(pid: number, field: string): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Math.round(Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1]) / 1024)
}
