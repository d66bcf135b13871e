/**
 * Goal: the switch of full_page_writes goes in its order over real clients' interfaces, waits for what it must see, and
 * answers drift. Method: pageservers and a compute in memory, which a test moves on.
 */
import { lsn } from '@understory/base'
import { FullPageWrites } from '@understory/rpc'
import { expect, test } from 'vitest'
import { RUNNING, stepBench } from '../../../test/step-bench.ts'
import type { StepBench } from '../../../test/step-bench.ts'
import { REF } from '../../../test/support.ts'
import type { FpwState } from '../../documents/timeline-document.ts'
import { requestSwitch } from '../fpw-switch.ts'
import { compute } from './compute.ts'
import { followers } from './followers.ts'
import { fpw } from './fpw.ts'
import { shards } from './shards.ts'

const { FULL_PAGE_WRITES_ON: ON, FULL_PAGE_WRITES_OFF: OFF } = FullPageWrites

async function running(): Promise<StepBench> {
  const bench = await stepBench(RUNNING)
  await bench.run(shards)
  await bench.run(compute)
  return bench
}
const request = (bench: StepBench, wanted: 'on' | 'off'): Promise<unknown> =>
  bench.parts.update((item) => ({ ...item, fpw: requestSwitch(item.fpw, wanted, 5) }))
const show = (bench: StepBench, value: FullPageWrites, at: number): void =>
  bench.pageserver('ps-1').set(REF, 0, {
    fullPageWrites: value,
    fullPageWritesLsn: BigInt(at),
    ingestedLsn: BigInt(at),
  })
const stateOf = async (bench: StepBench): Promise<FpwState> => (await bench.timeline()).fpw
const imagesOf = (bench: StepBench): unknown[] =>
  ['ps-1', 'ps-2']
    .map((node, number) => bench.pageserver(node).attached(REF, number))
    .map((shard) => shard?.generation)

test('off: every shard makes images before the setting changes, and the WAL has to show it', async () => {
  const bench = await running()
  await request(bench, 'off')
  expect(imagesOf(bench)).toEqual([2, 2])
  bench.pageserver('ps-2').isAway = true
  await expect(bench.run(fpw)).rejects.toMatchObject({ code: 'unavailable' })
  expect(bench.compute().fullPageWrites).toBe('on')
  bench.pageserver('ps-2').isAway = false
  expect(await bench.run(fpw)).toEqual({ kind: 'again' })
  for (const [number, node] of ['ps-1', 'ps-2'].entries())
    expect(
      (await bench.pageserver(node).shards(REF)).find(({ shard }) => shard?.number === number),
    ).toMatchObject({
      imageGeneration: { enabled: true },
    })
  bench.compute().insertLsn = lsn(0x3000000)
  await bench.run(fpw)
  expect(bench.compute().fullPageWrites).toBe('off')

  await expect(bench.run(fpw)).rejects.toMatchObject({ code: 'timeout' })
  show(bench, OFF, 0x2fffff0)
  // That was before the setting.
  await expect(bench.run(fpw)).rejects.toMatchObject({ code: 'timeout' })
  show(bench, OFF, 0x3000028)
  expect(await bench.run(fpw)).toEqual({ kind: 'again' })
  expect(await stateOf(bench)).toMatchObject({ phase: 'off', sinceLsn: '0/3000028' })
  expect(await bench.run(fpw)).toEqual({ kind: 'settled' })
})

test('on: images end only after a checkpoint whose redo is at or past the record', async () => {
  const bench = await running()
  await bench.parts.update((item) => ({
    ...item,
    fpw: { ...item.fpw, wanted: 'off', phase: 'off', sinceLsn: '0/2000000' },
  }))
  await request(bench, 'on')
  await bench.run(fpw)
  show(bench, ON, 0x4000000)
  await bench.run(fpw)
  bench.compute().redoLsn = lsn(0x3ffff00)
  expect(await bench.run(fpw)).toEqual({ kind: 'again' })
  expect((await stateOf(bench)).steps.find(({ name }) => name === 'checkpoint')).toMatchObject({
    done: false,
  })
  bench.compute().redoLsn = lsn(0x4000000)
  await bench.run(fpw)
  await bench.run(fpw)
  expect(await stateOf(bench)).toMatchObject({ phase: 'on', sinceLsn: '0/4000000' })
})

test('while the record is waited for, the pageserver is asked less and less often', async () => {
  const bench = await running()
  await request(bench, 'off')
  for (let i = 0; i < 2; i++) await bench.run(fpw)
  const before = bench.pageserver('ps-1').calls.length
  await expect(bench.run(fpw)).rejects.toMatchObject({ code: 'timeout' })
  expect(bench.pageserver('ps-1').calls.length - before).toBeLessThan(40)
})

test('a change that was not requested is drift: the switch begins again, under another generation', async () => {
  const bench = await running()
  show(bench, OFF, 0x5000000)
  expect(await bench.run(fpw)).toEqual({ kind: 'again' })
  expect(bench.events.map(({ event }) => event)).toContain('full_page_writes_drifted')
  expect(await stateOf(bench)).toMatchObject({ wanted: 'on', phase: 'switching_on', generation: 1 })
})

test('a step that a newer request has overtaken does not count', async () => {
  const bench = await running()
  await request(bench, 'off')
  bench.compute().setFullPageWrites = async () => {
    await request(bench, 'on')
    return lsn(0x3000000)
  }
  await bench.run(fpw)
  await bench.run(fpw)
  const { wanted, steps } = await stateOf(bench)
  expect(wanted).toBe('on')
  expect(steps.every(({ done }) => !done)).toBe(true)
})

test('a step fails while no compute runs, and a stopped shard 0 is the reason that is given', async () => {
  const bench = await running()
  await request(bench, 'off')
  await bench.run(fpw)
  bench.compute().isAway = true
  await expect(bench.run(fpw)).rejects.toThrow('the compute is not running')
  bench.compute().isAway = false
  await bench.run(fpw)
  bench.pageserver('ps-1').set(REF, 0, { failure: 'unknown record' })
  await expect(bench.run(fpw)).rejects.toThrow('shard 0 has stopped: unknown record')
})

test('shards are sent a changed set of safekeepers until all have it', async () => {
  const bench = await running()
  const attachesOf = (): number[] =>
    ['ps-1', 'ps-2'].map(
      (node) => bench.pageserver(node).calls.filter((call) => call === 'attachShard').length,
    )
  await bench.run(followers)
  expect(attachesOf()).toEqual([1, 1])
  await bench.parts.update((item) => ({
    ...item,
    membershipGeneration: 2,
    safekeeperNodes: ['sk-2', 'sk-3'],
  }))
  bench.pageserver('ps-2').isAway = true
  await bench.run(followers)
  bench.pageserver('ps-2').isAway = false
  await bench.run(followers)
  await bench.run(followers)
  expect(attachesOf()).toEqual([3, 2])
  expect(bench.pageserver('ps-2').attached(REF, 1)?.safekeepers).toEqual(['sk-2:1', 'sk-3:1'])
})
