// Goal: the metrics of a compute about its safekeepers. Method: the observer alone, as its quorum calls it.
import type { Lsn } from '@understory/base'
import { Meter } from '@understory/telemetry'
import { expect, test } from 'vitest'
import { ComputeObserver } from './compute-observer.ts'
import { METRICS } from './metrics.ts'

test('a safekeeper that never answered is not connected, and its lag is unknown', async () => {
  const meter = new Meter()
  const telemetry = { meter, metrics: meter.instruments(METRICS), traces: undefined }
  const timeline = { tenantId: 'a', timelineId: 'b' }
  const observer = new ComputeObserver(telemetry, timeline, () => ({
    state: 'running',
    ingestLag: undefined,
  }))
  const points = async (name: string) => {
    const series = (await meter.collect()).find(({ spec }) => spec.name === name)
    return [...(series?.cells ?? [])].map(({ labels, ...cell }) => [
      labels['safekeeper'],
      'value' in cell ? cell.value : undefined,
    ])
  }
  observer.begins(['one', 'two', 'away'])
  observer.elected(1, 'adopt', 100 as Lsn)
  observer.acknowledged('one', 100 as Lsn, performance.now())
  observer.acknowledged('two', 90 as Lsn, performance.now())
  expect(await points('understory.compute.safekeeper.connected')).toEqual([
    ['one', 1],
    ['two', 1],
    ['away', 0],
  ])
  expect(await points('understory.compute.safekeeper.lag')).toEqual([
    ['one', 0],
    ['two', 10],
  ])
  observer.membershipChanged(['one', 'two', 'new'])
  expect(await points('understory.compute.safekeeper.connected')).toEqual([
    ['one', 1],
    ['two', 1],
    ['new', 0],
  ])
})
