// Goal: a damaged document of one timeline hides no other from metrics, alerts and deletion. Method: a store in memory.
import { present } from '@understory/base'
import { memoryObjectStore } from '@understory/object-store'
import { realClock, realRng, silentLog } from '@understory/env'
import { expect, test, vi } from 'vitest'
import { TIMELINE_ID, TENANT_ID, aTenant, aTimeline, leadUnder } from '../../test/support.ts'
import { TenantStore } from '../documents/tenant-store.ts'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'
import { TimelineStore } from '../documents/timeline-store.ts'
import { DeletionService } from './deletion-service.ts'
import type { Reconcilers } from './reconcilers.ts'
import type { RemovalParts } from './removals.ts'
import { finishRetirement, finishTenantDeletion } from './retirement.ts'
import { TenantService } from './tenant-service.ts'

const LOST = 'f'.repeat(32)

async function storesWithLostTimeline(isDeleted: boolean) {
  const store = memoryObjectStore()
  const timelines = [
    { timelineId: LOST, name: 'lost' },
    { timelineId: TIMELINE_ID, name: 'main' },
  ]
  const put = (key: string, value: object) => store.putIfAbsent(key, Buffer.from(JSON.stringify(value)))
  await put(`control/tenants/${TENANT_ID}.json`, aTenant({ timelines, isDeleted }))
  await put(`control/timelines/${TENANT_ID}/${TIMELINE_ID}.json`, aTimeline())
  const tenants = new TenantStore(store, leadUnder(1))
  return { tenants, timelines: new TimelineStore(store, leadUnder(1), tenants) }
}

test('a timeline whose document is lost is logged once, and the others are shown', async () => {
  const warn = vi.fn<(event: string, fields?: object) => void>()
  const stores = await storesWithLostTimeline(false)
  const parts = { ...stores, clock: realClock, rng: realRng, log: { ...silentLog, warn } }
  const view = (tenant: TenantDocument, timeline: TimelineDocument) => Promise.resolve({ tenant, timeline })
  const service = new TenantService(parts, { of: () => ({ view }) } as unknown as Reconcilers)
  for (let look = 0; look < 2; look++)
    expect((await service.views()).map(({ timeline }) => timeline.timelineId)).toEqual([TIMELINE_ID])
  expect(warn.mock.calls).toEqual([['timeline_not_read', expect.objectContaining({ timeline: LOST })]])
})

test('a timeline between the two steps of its restart is away for a moment, and does not count as deleted', async () => {
  const stores = await storesWithLostTimeline(false)
  const parts = { ...stores, clock: realClock, rng: realRng, log: silentLog }
  const service = new TenantService(parts, {} as unknown as Reconcilers)
  const retired = await stores.timelines.retire({ tenantId: TENANT_ID, timelineId: TIMELINE_ID }, 'restarted')
  await expect(service.findTimeline(TENANT_ID, 'main')).rejects.toMatchObject({ code: 'unavailable' })
  await finishRetirement(stores, retired, 'e'.repeat(32))
  const { timeline } = await service.findTimeline(TENANT_ID, 'main')
  expect(timeline.timelineId).toBe('e'.repeat(32))
})

test('of a deleted tenant it keeps no other timeline from being removed, and is shown with what is wrong', async () => {
  const stores = await storesWithLostTimeline(true)
  const parts = { ...stores, clock: realClock, rng: realRng, log: silentLog } as unknown as RemovalParts
  const deletions = new DeletionService(
    { ...parts, rng: realRng },
    {} as unknown as TenantService,
    {} as unknown as Reconcilers,
  )
  const shown = async () =>
    (await deletions.removals()).map(({ removal, problem }) => [removal.timelineId, problem !== ''])
  expect(await shown()).toEqual([
    [LOST, true],
    [TIMELINE_ID, false],
  ])
  const tenant = present(await stores.tenants.read(TENANT_ID), 'the tenant')
  await expect(finishTenantDeletion(stores, tenant)).rejects.toMatchObject({ code: 'bad_file' })
  const after = present(await stores.tenants.read(TENANT_ID), 'the tenant')
  expect(after.timelines.map(({ timelineId }) => timelineId)).toEqual([LOST])
  expect(after.removals.map(({ timelineId }) => timelineId)).toEqual([TIMELINE_ID])
})
