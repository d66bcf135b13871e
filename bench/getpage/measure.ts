/** Reads of pages through the function that answers GetPages, by several readers at once. */
import { LSN_MAX, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realClock } from '@understory/env'
import { PAGE_FOUND, blockKey } from '@understory/storage'
import type { Key, PageRequest } from '@understory/storage'
import { readPages } from '../../apps/pageserver/src/serve/page-reads.ts'
import type { Shard } from '../../apps/pageserver/src/shard/shard.ts'
import { quantile } from '../storage/report.ts'
import { Random } from '../workloads/random.ts'
import type { ChainTable } from './chains.ts'

export interface ChainPages {
  /** Records on top of the image, of every page. */
  readonly chain: number
  readonly requests: readonly PageRequest[]
  /** Layers that have values of a page. */
  readonly layersMean: number
  /** Stored of a page: image and records. */
  readonly bytesMean: number
}

/**
 * Each page of the table at the LSN at which it had as many records as the table had updates. Pages that have fewer are
 * left out, as is the last of a table.
 */
export async function pagesOf(shard: Shard, table: ChainTable): Promise<ChainPages> {
  const requests: PageRequest[] = []
  let layers = 0
  let bytes = 0
  for (let block = 0; block < table.blocks; block++) {
    const key: Key = blockKey(table.spcOid, table.dbOid, table.rel, 0, block)
    const lsn = await lsnOfRecord(shard, key, table.updates)
    if (lsn === undefined) continue
    requests.push({ key, lsn })
    const { base, records } = await planOf(shard, key, lsn)
    if (base === undefined || records.length !== table.updates)
      throw fail('precondition', `a page has ${records.length} records in place of ${table.updates}`)
    const values = [base, ...records]
    layers += new Set(values.map(({ layer }) => layer)).size
    bytes += values.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)
  }
  const count = requests.length
  if (count < table.blocks / 2)
    throw fail('precondition', `only ${count} of ${table.blocks} pages have a chain of ${table.updates}`)
  return { chain: table.updates, requests, layersMean: layers / count, bytesMean: bytes / count }
}

async function planOf(shard: Shard, key: Key, at: Lsn) {
  const plan = await shard.reader.map.plan(key, at)
  if (plan === undefined) throw fail('precondition', 'a page of a table is not there')
  return plan
}

/** Where the page has so many records; undefined where it never has. */
async function lsnOfRecord(shard: Shard, key: Key, count: number): Promise<Lsn | undefined> {
  if (count === 0) return shard.readableLsn
  return (await planOf(shard, key, LSN_MAX)).records[count - 1]?.lsn
}

export interface Reads {
  readonly p50Us: number
  readonly p99Us: number
  readonly readsPerSecond: number
  /** CPU of all threads for a read. */
  readonly cpuUs: number
  readonly count: number
}

export interface HowToRead {
  /** At once, each of which reads one page after the other, drawn evenly. */
  readonly readers: number
  readonly durationMs: number
  readonly seed: number
  /** Called before each read, outside its time; gives what is called after it. */
  readonly begin: () => () => void
}

/** Error: `precondition` where a page is not found. */
export async function readFor(
  shard: Shard,
  { requests }: ChainPages,
  { readers, durationMs, seed, begin }: HowToRead,
): Promise<Reads> {
  const latenciesUs: number[] = []
  const signal = new AbortController().signal
  const startMs = performance.now()
  const cpu = process.cpuUsage()
  const read = async (reader: number): Promise<void> => {
    const random = new Random(seed, reader)
    while (performance.now() - startMs < durationMs) {
      const request = requests[random.between(0, requests.length - 1)] as PageRequest
      const end = begin()
      const beginMs = performance.now()
      const { statuses } = await readPages(shard, [request], realClock, signal)
      latenciesUs.push((performance.now() - beginMs) * 1000)
      end()
      if (statuses[0] !== PAGE_FOUND) throw fail('precondition', `a page has status ${statuses[0]}`)
    }
  }
  await Promise.all(Array.from({ length: readers }, (_, reader) => read(reader)))
  const seconds = (performance.now() - startMs) / 1000
  const { user, system } = process.cpuUsage(cpu)
  return {
    p50Us: quantile(latenciesUs, 0.5),
    p99Us: quantile(latenciesUs, 0.99),
    readsPerSecond: latenciesUs.length / seconds,
    cpuUs: (user + system) / latenciesUs.length,
    count: latenciesUs.length,
  }
}
