/** Goal: the simulated disk forgets what a real one may, and keeps what it must. Method: each promise by itself. */
import { seededRng } from '@understory/env'
import { expect, test } from 'vitest'
import { noArmedFaults } from '../src/acceptor-node.ts'
import { Counts } from '../src/counts.ts'
import { Schedule } from '../src/schedule.ts'
import { SimDisk } from '../src/sim-disk.ts'
import type { DiskProcess } from '../src/sim-disk.ts'

const PATH = '/data/file'
const bytes = (value: number): Uint8Array => new Uint8Array(2048).fill(value)

function world(seed = 1) {
  const schedule = new Schedule()
  const armed = noArmedFaults()
  let process: DiskProcess
  const disk = new SimDisk({
    schedule,
    rng: seededRng(seed),
    counts: new Counts(),
    armed,
    crash: () => (process.isDead = true),
    mayFlip: () => true,
  })
  process = disk.process()
  /** Runs what is asked of the disk to its end, in virtual time. */
  const run = async <T>(work: Promise<T>): Promise<T> => {
    let isOver = false
    const end = (): void => {
      isOver = true
      schedule.stir()
    }
    work.then(end, end)
    schedule.stir()
    await schedule.run(10_000, () => isOver)
    return work
  }
  return { disk, process, armed, run }
}

test('what is synced survives a loss of power, what is not may be lost in part', async () => {
  const survivors = new Set<string>()
  for (let seed = 1; seed < 40; seed++) {
    const { disk, process, run } = world(seed)
    const file = await run(process.disk.open(PATH, 'create'))
    await run(file.write(0, bytes(1)))
    await run(file.sync())
    await run(process.disk.syncDirectory('/data'))
    await run(file.write(0, bytes(2)))
    disk.losePower()
    const left = disk.bytesOf(PATH, 'cache') as Uint8Array
    survivors.add([0, 512, 1024, 1536].map((at) => left[at]).join(''))
  }
  // Whole sectors, each for itself.
  expect(survivors.size).toBeGreaterThan(8)
  for (const left of survivors) expect(left).toMatch(/^[12]{4}$/)
})

test('a name is durable once its folder is synced', async () => {
  const left = new Set<boolean>()
  for (let seed = 1; seed < 20; seed++) {
    const { disk, process, run } = world(seed)
    await run((await run(process.disk.open(PATH, 'create'))).sync())
    disk.losePower()
    left.add(disk.bytesOf(PATH, 'cache') !== undefined)
  }
  expect(left.size).toBe(2)
  const { disk, process, run } = world()
  await run(process.disk.open(PATH, 'create'))
  await run(process.disk.syncDirectory('/data'))
  disk.losePower()
  expect(disk.bytesOf(PATH, 'cache')).toBeDefined()
})

test('a sync after one that failed proves nothing; writing again does', async () => {
  const { disk, process, armed, run } = world()
  const file = await run(process.disk.open(PATH, 'create'))
  await run(process.disk.syncDirectory('/data'))
  await run(file.write(0, bytes(1)))
  armed.failSyncAfter = 1
  await expect(run(file.sync())).rejects.toMatchObject({ code: 'disk_failed' })
  await expect(run(file.sync())).rejects.toMatchObject({ code: 'disk_failed' })
  const again = await run(process.disk.open(PATH, 'readWrite'))
  await run(again.sync())
  expect((await run(again.read(0, 2048)))[0]).toBe(1)
  expect(disk.bytesOf(PATH, 'medium')?.[0] ?? 0).toBe(0)
  await run(again.write(0, bytes(1)))
  await run(again.sync())
  expect(disk.bytesOf(PATH, 'medium')?.[0]).toBe(1)
})

test('replacing a file leaves the old bytes or the new ones, wherever the process ends', async () => {
  const left = new Set<number>()
  for (let seed = 1; seed < 120; seed++) {
    const { disk, process, armed, run } = world(seed)
    await run(process.disk.durableReplace(PATH, bytes(1)))
    armed.crashAfterEffects = 1 + (seed % 8)
    void process.disk.durableReplace(PATH, bytes(2))
    await run(new Promise((resolve) => setImmediate(resolve)))
    await Promise.race([run(never), new Promise((resolve) => setImmediate(resolve))])
    disk.losePower()
    const found = disk.bytesOf(PATH, 'cache') as Uint8Array
    expect(new Set(found.subarray(0, 2048)).size).toBe(1)
    left.add(found[0] as number)
  }
  expect(left).toEqual(new Set([1, 2]))
})

test('the process after one that ended anywhere replaces the file, and finds what that one left', async () => {
  let leftCount = 0
  for (let seed = 1; seed < 60; seed++) {
    const { disk, process, armed, run } = world(seed)
    await run(process.disk.durableReplace(PATH, bytes(1)))
    armed.crashAfterEffects = 1 + (seed % 8)
    void process.disk.durableReplace(PATH, bytes(2))
    await Promise.race([run(never), new Promise((resolve) => setImmediate(resolve))])
    armed.crashAfterEffects = 0
    const left = disk.leftovers()
    leftCount += left.length
    const next = disk.process()
    await run(next.disk.durableReplace(PATH, bytes(3)))
    expect(disk.bytesOf(PATH, 'medium')?.[0]).toBe(3)
    expect(disk.leftovers()).toEqual(left)
    expect(await run(next.disk.removeLeftovers('/data'))).toBe(left.length)
    expect(disk.leftovers()).toEqual([])
  }
  expect(leftCount).toBeGreaterThan(10)
})
const never = new Promise<void>(() => undefined)
