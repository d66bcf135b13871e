/**
 * Goal: a deleted timeline is gone from the disk, from any state and wherever a crash cuts the deletion, and
 * what follows it or works on it ends. Method: safekeepers in this process with real files, over real gRPC; a disk that
 * stops at each step of a deletion.
 */
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { LSN_ZERO, lsnToBigint } from '@understory/base'
import { realClock, realDisk, realRng, silentLog } from '@understory/env'
import type { Disk } from '@understory/env'
import { localObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { callUnary } from '@understory/rpc'
import { expect, test } from 'vitest'
import { Timelines } from '../src/timeline/timelines.ts'
import { unlimitedQuota } from '../src/timeline/node-quota.ts'
import { REF, configure, create, folder, membership, start, status, write } from './peers.ts'
import type { Safekeeper } from './peers.ts'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, START } from './wal-maker.ts'

const remove = ({ client }: Safekeeper, leftWithGeneration = 0n, timeline = REF): Promise<unknown> =>
  callUnary(client.deleteTimeline.bind(client), { timeline, leftWithGeneration })
const left = (at: string): Promise<string[]> => readdir(join(at, 'sk1', 'timelines'))

test('a deleted timeline is gone with its files, its streams end, and it can be deleted again', async () => {
  const at = await folder()
  const safekeeper = await start('sk1', at)
  await create(safekeeper)
  const { leader } = await write(safekeeper, 1, 10)
  await remove(safekeeper)
  expect(await leader.refusal()).toMatchObject({ code: 'unknown_timeline' })
  expect(await left(at)).toEqual([])
  await expect(status(safekeeper)).rejects.toMatchObject({ code: 'unknown_timeline' })
  await expect(new SingleProposer(safekeeper.client).greet(REF, IDENTITY)).rejects.toMatchObject({
    code: 'unknown_timeline',
  })
  await remove(safekeeper)
  await safekeeper.stop()
  const again = await start('sk1', at)
  expect(again.timelines.list()).toEqual([])
})

test('one that cannot be opened is deleted too', async () => {
  const at = await folder()
  const first = await start('sk1', at)
  await create(first)
  await write(first, 1, 10)
  await first.stop()
  const path = join(at, 'sk1', 'timelines', REF.tenantId, REF.timelineId)
  await writeFile(join(path, 'control'), 'damaged')
  await writeFile(join(path, 'control.2'), 'damaged')
  const safekeeper = await start('sk1', at)
  await expect(status(safekeeper)).rejects.toMatchObject({ code: 'bad_file' })
  await remove(safekeeper)
  expect(await left(at)).toEqual([])
  // And one of which only a folder was made.
  await mkdir(path, { recursive: true })
  await remove(safekeeper)
  expect(await left(at)).toEqual([])
})

test('the copy of one that left is not deleted where it came back', async () => {
  const safekeeper = await start('sk1', await folder())
  await create(safekeeper)
  await write(safekeeper, 1, 10)
  await configure(safekeeper, membership(4, [safekeeper]))
  await expect(remove(safekeeper, 3n)).rejects.toMatchObject({ code: 'stale' })
  expect((await status(safekeeper)).membershipGeneration).toBe(4n)
  await remove(safekeeper, 4n)
  await expect(status(safekeeper)).rejects.toMatchObject({ code: 'unknown_timeline' })
})

/** Calls of a disk that change something, the last of which and all after it fail. */
function cutAfter(count: number): Disk & { calls: number } {
  const disk = { ...realDisk, calls: -Infinity }
  for (const name of ['rename', 'syncDirectory', 'removeTree', 'remove'] as const) {
    disk[name] = ((...args: [never, never]) => {
      if (disk.calls++ >= count) return Promise.reject(new Error('power is off'))
      return (realDisk[name] as (...given: never[]) => Promise<unknown>)(...args)
    }) as never
  }
  return disk
}

test('a crash at any step of a deletion leaves all of it, or nothing after the next start', async () => {
  let wasCut = 0
  for (let count = 0; ; count++) {
    const at = await folder()
    const before = await start('sk1', at)
    await create(before)
    await write(before, 1, 10)
    await before.stop()
    const disk = cutAfter(count)
    const timelines = new Timelines({
      disk,
      log: silentLog,
      dataDir: join(at, 'sk1'),
      quota: unlimitedQuota(realClock),
      clock: realClock,
      rng: realRng,
    })
    await timelines.openAll()
    disk.calls = 0
    const isCut = await timelines.delete(REF, 0).then(
      () => false,
      () => true,
    )
    const after = await start('sk1', at)
    const rest = after.timelines.list()
    if (rest.length > 0) {
      expect((await status(after)).flushLsn).toBeGreaterThan(lsnToBigint(START))
      await remove(after)
    }
    expect(await left(at)).toEqual([])
    await after.stop()
    if (!isCut) break
    wasCut++
  }
  expect(wasCut).toBeGreaterThan(2)
})

test('nothing comes into the object store once the deletion is answered', async () => {
  const at = await folder()
  const local = await localObjectStore(join(at, 'objects'), { clock: realClock, rng: realRng })
  const putting = Promise.withResolvers<void>()
  const release = Promise.withResolvers<void>()
  const other = { tenantId: REF.tenantId, timelineId: 'd'.repeat(32) }
  const prefixOf = ({ tenantId, timelineId }: typeof REF): string => `wal/${tenantId}/${timelineId}/`
  const puts: string[] = []
  const putIfAbsent: ObjectStore['putIfAbsent'] = async (key, ...rest) => {
    if (key.startsWith(prefixOf(REF))) {
      putting.resolve()
      await release.promise
    }
    puts.push(key)
    return local.putIfAbsent(key, ...rest)
  }
  const slow: ObjectStore = new Proxy(local, {
    get: (target, name) => {
      if (name === 'putIfAbsent') return putIfAbsent
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value
    },
  })
  const safekeeper = await start('sk1', at, { store: slow })
  await create(safekeeper)
  await write(safekeeper, 1, 800)
  safekeeper.offloader?.start()
  await putting.promise
  let isDone = false
  const removed = remove(safekeeper).then(() => {
    isDone = true
  })
  // It takes longer than all of a deletion that begins later, since its upload is under way.
  await create(safekeeper, other)
  await remove(safekeeper, 0n, other)
  expect(isDone).toBe(false)
  release.resolve()
  await removed
  const putsBefore = puts.filter((key) => key.startsWith(prefixOf(REF)))
  expect(putsBefore.length).toBeGreaterThan(0)
  // Rounds of the offloader follow, as another timeline's WAL shows, and none of them stores anything of this one.
  await create(safekeeper, other)
  await write(safekeeper, 1, 800, 7_000, LSN_ZERO, other)
  await expect.poll(() => puts.filter((key) => key.startsWith(prefixOf(other))).length).toBeGreaterThan(3)
  expect(puts.filter((key) => key.startsWith(prefixOf(REF)))).toEqual(putsBefore)
})
