// The pure parts of the storage engine's benchmarks: quantiles, tables, aims, the order of rounds.
import { expect, test } from 'vitest'
import { roundsOf } from '../getpage/chains.ts'
import { ForgetfulCache } from '../getpage/forgetful-cache.ts'
import { ARMS, aimsOf, renderGetPage } from '../getpage/report.ts'
import type { GetPageReport } from '../getpage/report.ts'
import { aimsOf as ingestAimsOf } from '../ingest/report.ts'
import type { IngestRun } from '../ingest/measure.ts'
import { aimsOf as scaleAimsOf, renderScale } from '../scale/report.ts'
import type { ScaleReport } from '../scale/report.ts'
import { measureMap } from '../scale/map.ts'
import { unchangedBlock } from '../scale/synthetic.ts'
import { isReached, quantile, renderAims, renderTable, shown } from './report.ts'

test('a quantile is a value that was measured, whatever the order', () => {
  const values = Array.from({ length: 100 }, (_, i) => ((i * 37) % 100) + 1)
  expect(quantile(values, 0.5)).toBe(50)
  expect(quantile(values, 0.99)).toBe(99)
  expect(quantile(values, 1)).toBe(100)
  expect(quantile(values, 0)).toBe(1)
  expect(quantile([7], 0.99)).toBe(7)
  expect(quantile([], 0.5)).toBe(0)
  // As numbers, not as text.
  expect(quantile([9, 10, 100], 1)).toBe(100)
})

test('columns of a table are as wide as their widest cell', () => {
  expect(renderTable(['name', 'n'], [['a', '1000']])).toBe('  name     n\n  a     1000\n')
})

test('a figure has three digits', () => {
  expect([0.1234, 1.234, 12.34, 123.4, 12_345.6, Infinity].map(shown)).toEqual([
    '0.123',
    '1.23',
    '12.3',
    '123',
    '12346',
    'Infinity',
  ])
})

test('an aim is reached from below or from above', () => {
  const aim = { name: 'x', unit: 'us', aim: 150 }
  expect(isReached({ ...aim, measured: 150, isLimit: true })).toBe(true)
  expect(isReached({ ...aim, measured: 151, isLimit: true })).toBe(false)
  expect(isReached({ ...aim, measured: 149, isLimit: false })).toBe(false)
  const text = renderAims([{ ...aim, measured: 151, isLimit: true }])
  expect(text).toContain('151 us  <= 150 us  missed')
})

test('the rounds of all phases together are as many as each table has updates, mixed within a phase', () => {
  const lengths = [0, 1, 8, 16]
  const phases = Array.from({ length: 8 }, (_, phase) => roundsOf(lengths, phase, 8))
  const counts = new Map<number, number>()
  for (const updates of phases.flat()) counts.set(updates, (counts.get(updates) ?? 0) + 1)
  expect([...counts].toSorted(([a], [b]) => a - b)).toEqual([
    [1, 1],
    [8, 8],
    [16, 16],
  ])
  expect(phases[0]).toEqual([16, 8, 16])
  expect(phases.at(-1)).toContain(1)
})

test('page reads are summed up as medians of their rounds, and compared with the aims of one reader', () => {
  const runs = ARMS.flatMap((arm) =>
    [1, 8].flatMap((readers) =>
      [100, 200, 900].map((us, i) => ({
        arm,
        chain: 16,
        readers,
        round: i + 1,
        p50Us: us * readers,
        p99Us: us * 2,
        readsPerSecond: 1e6 / us,
        cpuUs: us / 2,
        count: 10,
      })),
    ),
  )
  const report: GetPageReport = {
    postgresMajor: 17,
    machine: { cores: 2, cpu: 'cpu', memoryGibibytes: 4, node: 'v24', loadAverages: [0, 1] },
    settings: {},
    shard: { layers: 3, levels: 3, layerBytes: 1e6 },
    pages: [{ chain: 16, count: 10, layersMean: 2, bytesMean: 2048 }],
    runs,
  }
  expect(aimsOf(report).map(({ name, measured, aim }) => [name, measured, aim])).toEqual([
    ['warm, 16 records, p50', 200, 150],
    ['local, 16 records, p50', 200, 400],
    ['cold, 16 records, p50', 200, 400],
  ])
  expect(renderGetPage(report)).toMatch(
    /warm, 16 records +2\.0 +2\.0 +200 +400 +100 +5000 +1600 +400 +100 +5000\n/,
  )
})

test('ingest is summed up as MB for each CPU second and bytes for each byte of WAL', () => {
  const touched = { p50: 1, p99: 3, max: 9 }
  const runOf = (cpuSeconds: number, p99: number): IngestRun => ({
    kind: 'random',
    shards: 4,
    round: 1,
    walMegabytes: 100,
    taken: { seconds: 1, cpuSeconds: 1 },
    durable: { seconds: 2, cpuSeconds },
    settled: { seconds: 10, cpuSeconds: 10 },
    disk: { bytes: 200e6, layerBytes: 190e6 },
    store: { bytes: 150e6, layerBytes: 140e6 },
    generatedImages: 7,
    layers: 3,
    layerMegabytes: 50,
    touched: { pages: 10, withValues: touched, asked: { ...touched, p99 } },
  })
  const machine = { cores: 2, cpu: 'cpu', memoryGibibytes: 4, node: 'v24', loadAverages: [0, 1] } as const
  const report = { postgresMajor: 17, machine, settings: {}, runs: [runOf(2, 3), runOf(4, 5), runOf(5, 4)] }
  expect(ingestAimsOf(report).map(({ name, measured, aim }) => [name, measured, aim])).toEqual([
    ['random, 4 shards, ingest a core', 25, 40],
    ['random, 4 shards, written for a byte of WAL', 3.5, 3],
    ['random, 4 shards, layers touched, p99', 5, 8],
  ])
})

test('a forgetful cache keeps a block while a read is under way that was when it came', () => {
  const cache = new ForgetfulCache(false)
  const table = cache.table<{ readonly sizeBytes: number }>()
  const endFirst = cache.begin()
  table.put(1, { sizeBytes: 10 })
  const endSecond = cache.begin()
  expect(table.get(1)).toBeDefined()
  table.put(2, { sizeBytes: 10 })
  endFirst()
  const endThird = cache.begin()
  expect(table.get(1)).toBeUndefined()
  expect(table.get(2)).toBeDefined()
  endSecond()
  endThird()
  cache.begin()
  expect(table.get(2)).toBeUndefined()
  expect(cache.forgottenCount).toBe(2)
})

test('a forgetful cache may keep all but values', () => {
  class DataBlock {
    readonly sizeBytes = 10
  }
  const cache = new ForgetfulCache(true)
  const table = cache.table<{ readonly sizeBytes: number }>()
  cache.begin()()
  table.put(1, { sizeBytes: 10 })
  table.put(2, new DataBlock())
  cache.begin()
  expect(table.get(1)).toBeDefined()
  expect(table.get(2)).toBeUndefined()
})

test('a map of many layers finds every page', () => {
  const { layers, levels, lookUpUs, pushMs } = measureMap(100)
  expect({ layers, levels }).toEqual({ layers: 100, levels: 11 })
  expect(Math.min(lookUpUs, pushMs)).toBeGreaterThan(0)
})

test('a page without a record is a neighbour of one that has one', () => {
  expect([0, 1, 9, 10].map(unchangedBlock)).toEqual([1, 1, 9, 11])
})

test('scale is summed up by its largest shard and most timelines', () => {
  const counts = { p50: 1, p99: 2, max: 3 }
  const rest = {
    layers: 10,
    loadSeconds: 1,
    blockCacheBytes: 2 ** 20,
    rssBytes: 2 ** 27,
    firstPageMs: 3,
    pageP50Us: 40,
    pageP99Us: 50,
    touched: { pages: 5, withValues: counts, asked: counts },
    loopDelay: { maxMs: 70, p999Ms: 7, p99Ms: 1 },
  }
  const size = (logicalBytes: number, mebibytes: number) => ({
    ...rest,
    shards: 1,
    residentBytes: mebibytes * 2 ** 20,
    logicalBytes,
    layerBytes: 1e6,
    makeSeconds: 1,
  })
  const report: ScaleReport = {
    machine: { cores: 2, cpu: 'cpu', memoryGibibytes: 4, node: 'v24', loadAverages: [0, 1] },
    settings: {},
    map: { layers: 10_000, levels: 11, lookUpUs: 6, pushMs: 1 },
    sizes: [size(1e9, 10), size(4e9, 8)],
    timelines: [
      { ...rest, shards: 10, residentBytes: 10 * 2 ** 20 },
      { ...rest, shards: 100, residentBytes: 100 * 24 * 1024 },
    ],
    start: {
      shards: 2,
      layers: 10,
      listeningMs: 1_999,
      firstPageMs: 201,
      rssMebibytes: 100,
      peakRssMebibytes: 110,
    },
    busy: undefined,
  }
  expect(scaleAimsOf(report).map(({ measured, aim }) => [measured, aim])).toEqual([
    [6, 5],
    [2000, 1024],
    [24, 32],
    [1999, 2000],
    [201, 200],
  ])
  expect(renderScale(report)).toMatch(
    /4\.00 +1 +10 +1\.00 +1\.00 +70\.0 +3\.00 +40\.0 +50\.0 +8\.00 +128 +2000 +1\.00\n/,
  )
})
