// The parts of the workloads that need no server: chance, quantiles, the sorting of errors, ledger files, the
// usage.
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { temporaryDirectory } from '@understory/testcontainers'
import { describe, expect, onTestFinished, test } from 'vitest'
import { isConnectionLoss, isRetryable } from './connection-loss.ts'
import { Histogram } from './histogram.ts'
import { Ledger } from './ledger.ts'
import { Random } from './random.ts'
import { drawCustomer, drawItem, drawLastName } from './tpcc/keys.ts'

test('chance is even, within its bounds, the same for a seed and another for each stream', () => {
  const counts = Array.from({ length: 10 }, () => 0)
  const random = new Random(7)
  for (let i = 0; i < 100_000; i++) counts[random.between(0, 9)]!++
  for (const count of counts) expect(count).toBeGreaterThan(9_500)
  const draw = (...args: [number, ...number[]]) =>
    Array.from(
      { length: 5 },
      (
        (r) => () =>
          r.next()
      )(new Random(...args)),
    )
  expect(draw(7, 1, 2)).toEqual(draw(7, 1, 2))
  const streams = [draw(7), draw(8), draw(2 ** 32 + 7), draw(7, 1), draw(7, 2), draw(7, 1, 2), draw(7, 2, 1)]
  expect(new Set(streams.map(String)).size).toBe(streams.length)
})

test('keys stay within any scale, and are as uneven as NURand makes them', () => {
  const random = new Random(1)
  for (const scale of [1, 10, 3_000, 100_000]) {
    for (let i = 0; i < 2_000; i++) {
      for (const key of [drawCustomer(random, scale), drawItem(random, scale)]) {
        expect(key).toBeGreaterThanOrEqual(1)
        expect(key).toBeLessThanOrEqual(scale)
      }
      expect(drawLastName(random, scale)).toMatch(/^[A-Z]{9,15}$/)
    }
  }
  const counts = new Map<number, number>()
  for (let i = 0; i < 100_000; i++) {
    const item = drawItem(random, 100_000)
    counts.set(item, (counts.get(item) ?? 0) + 1)
  }
  // Even draws would hit about 63,200 different items.
  expect(counts.size).toBeLessThan(50_000)
})

test('quantiles are right within 2.2 percent', () => {
  const histogram = new Histogram()
  expect(histogram.quantileMs(0.5)).toBe(0)
  for (let i = 1; i <= 1_000; i++) histogram.add(i / 10)
  const other = new Histogram()
  for (let i = 1; i <= 1_000; i++) other.add(100)
  for (const q of [0.01, 0.5, 0.95, 0.99]) expect(histogram.quantileMs(q) / (q * 100)).toBeCloseTo(1, 1.35)
  histogram.merge(other)
  expect(histogram.quantileMs(0.9) / 100).toBeCloseTo(1, 1.35)
})

describe('errors', () => {
  const withCode = (code: string) => Object.assign(new Error('x'), { code })
  test.each(['57P01', '57P02', '57P03', '08006', '08001', '28000', 'ECONNREFUSED', 'ECONNRESET'])(
    '%s is a lost connection',
    (code) => {
      expect(isConnectionLoss(withCode(code))).toBe(true)
      expect(isConnectionLoss(new AggregateError([withCode(code), withCode('ECONNREFUSED')]))).toBe(true)
    },
  )
  test.each([
    'Connection terminated unexpectedly',
    'Connection terminated',
    'Connection terminated due to connection timeout',
    'Client has encountered a connection error and is not queryable',
  ])('"%s" is a lost connection', (text) => {
    expect(isConnectionLoss(new Error(text))).toBe(true)
  })
  test.each(['57014', '23505', 'XX001', '40001', '28P01', '3D000'])('%s is none', (code) => {
    expect(isConnectionLoss(withCode(code))).toBe(false)
    expect(isRetryable(withCode(code))).toBe(code === '40001')
  })
})

test('a malformed ledger file is refused with its line', async () => {
  await using folder = await temporaryDirectory()
  const path = join(folder.path, 'ledger')
  writeFileSync(path, 'something else\n')
  expect(() => new Ledger(path)).toThrow(`line 1 of "${path}"`)
  writeFileSync(path, 'understory-ledger 1 clients from 65536\nc 65536 0\na 65536 x\n')
  expect(() => new Ledger(path)).toThrow(`line 3 of "${path}"`)
})

test('a ledger file opened again continues with new clients', async () => {
  await using folder = await temporaryDirectory()
  const ids: number[] = []
  for (let i = 0; i < 3; i++) {
    const ledger = new Ledger(join(folder.path, 'ledger'))
    onTestFinished(() => ledger.close())
    ids.push(ledger.addClient().clientId, ledger.addClient().clientId)
  }
  expect(ids).toEqual(ids.map((_, i) => ids[0]! + i))
})

describe('the command', () => {
  const main = fileURLToPath(new URL('./main.ts', import.meta.url))
  const run = (args: string) => spawnSync(process.execPath, [main, ...args.split(' ')], { encoding: 'utf8' })
  const url = '--url postgresql://postgres@127.0.0.1:1/postgres'
  test.each([
    ['tpcc load', '--url is missing'],
    ['tpch load', 'there is no workload "tpch"'],
    ['tpcc drop', 'cannot "drop" a workload'],
    ['tpcc load --url localhost', '--url "localhost" is not of the form'],
    [`tpcc load ${url} --scale 2`, '--scale does not apply to "tpcc load"'],
    [`tpcb run ${url} --clients 0`, '--clients must be a whole number of 1 to 1000, not "0"'],
    [`tpcb run ${url} --seconds 1.5`, '--seconds must be a whole number'],
    [`tpcb run ${url} --speed 9`, `unknown option '--speed'`],
  ])('%s: %s', (args, text) => {
    const { status, stderr } = run(args)
    expect(stderr).toMatch(/^error: .*\n$/)
    expect(stderr).toContain(text)
    expect(status).toBe(2)
  })
  test('a server that is not there is one line and exit code 1', () => {
    const { status, stderr } = run(`tpcb run ${url}`)
    expect(stderr).toBe('error: connect ECONNREFUSED 127.0.0.1:1\n')
    expect(status).toBe(1)
  })
})
