/**
 * Goal: a timeline leaves its tenant whole, with any process killed on the way, and its remains are known all the time.
 * Method: a store in memory that ends the process before or after any of its operations; the next control plane
 * finishes.
 */
import { memoryObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { expect, test } from 'vitest'
import { REF, TENANT_ID, TIMELINE_ID, aTenant, killedAt, leadUnder } from '../../test/support.ts'
import type { TenantDocument } from '../documents/tenant-document.ts'
import { entryOf } from '../documents/tenant-document.ts'
import { TenantStore } from '../documents/tenant-store.ts'
import { TimelineStore } from '../documents/timeline-store.ts'
import { deleteTimeline, finishRetirement, finishTenantDeletion, restartTimeline } from './retirement.ts'
import type { Stores } from './retirement.ts'
import { requestSwitch } from './fpw-switch.ts'

const NEXT_ID = '9'.repeat(32)
const LATER_ID = 'a'.repeat(32)

function storesOver(store: ObjectStore, epoch: number): Stores {
  const tenants = new TenantStore(store, leadUnder(epoch))
  return { tenants, timelines: new TimelineStore(store, leadUnder(epoch), tenants) }
}

async function placed(): Promise<ObjectStore> {
  const store = memoryObjectStore()
  const { tenants, timelines } = storesOver(store, 1)
  await tenants.create(aTenant())
  await timelines.update(REF, (timeline) => ({
    ...timeline,
    safekeeperNodes: ['sk-1'],
    shards: [{ node: 'ps-1', generation: 1 }],
    fpw: requestSwitch(timeline.fpw, 'off', 1),
  }))
  return store
}

/** The work of a reconciler on a timeline that it finds. */
async function reconcile(stores: Stores): Promise<TenantDocument> {
  const tenant = await stores.tenants.find(TENANT_ID)
  const entry = entryOf(tenant, TIMELINE_ID)
  if (entry === undefined) return tenant
  const timeline = await stores.timelines.read(tenant, entry)
  if (timeline.retired === undefined) return tenant
  await finishRetirement(stores, timeline, LATER_ID)
  return stores.tenants.find(TENANT_ID)
}

const REMOVAL = { timelineId: TIMELINE_ID, safekeeperNodes: ['sk-1'], shards: [{ node: 'ps-1', number: 0 }] }

/** Runs `work` with a kill at each operation in turn, and `check` with what the next control plane makes of it. */
async function everywhere(
  work: (stores: Stores) => Promise<void>,
  check: (store: ObjectStore, isDone: boolean) => Promise<void>,
): Promise<void> {
  for (const isEffective of [false, true]) {
    for (let at = 1; ; at++) {
      const store = await placed()
      const { store: dying, isKilled } = killedAt(store, at, isEffective)
      const isDone = await work(storesOver(dying, 2)).then(
        () => true,
        () => false,
      )
      await check(store, isDone)
      if (isKilled()) continue
      expect(isDone).toBe(true)
      expect(at).toBeGreaterThan(4)
      break
    }
  }
}

test('a timeline that is deleted is listed or to be removed, and once it is retired it goes', async () => {
  let retiredCount = 0
  await everywhere(
    (stores) => deleteTimeline(stores, REF),
    async (store, isDone) => {
      const stores = storesOver(store, 3)
      const { timelines, removals } = await reconcile(stores)
      if (timelines.length === 1) {
        expect([isDone, removals]).toEqual([false, []])
        expect(await stores.timelines.take(REF)).not.toHaveProperty('retired')
        return
      }
      retiredCount++
      expect(removals).toMatchObject([REMOVAL])
      await expect(stores.timelines.update(REF, (item) => item)).rejects.toMatchObject({
        code: 'unknown_timeline',
      })
    },
  )
  expect(retiredCount).toBeGreaterThan(3)
})

test('a timeline that begins again does so once, and keeps the request for full_page_writes', async () => {
  await everywhere(
    (stores) => restartTimeline(stores, REF, NEXT_ID),
    async (store, isDone) => {
      const stores = storesOver(store, 3)
      const tenant = await reconcile(stores)
      const [entry, ...others] = tenant.timelines
      expect(others).toEqual([])
      if (entry?.timelineId === TIMELINE_ID) return expect([isDone, tenant.removals]).toEqual([false, []])
      expect([NEXT_ID, LATER_ID]).toContain(entry?.timelineId)
      expect(tenant.removals).toMatchObject([REMOVAL])
      expect(await stores.timelines.read(tenant, entry!)).toMatchObject({
        name: 'main',
        bootstrapped: false,
        shards: [],
        fpw: { wanted: 'off', generation: 1 },
      })
    },
  )
})

test('of a deleted tenant every timeline is retired, also one that is about to begin again', async () => {
  await everywhere(
    async (stores) => {
      await stores.timelines.retire(REF, 'restarted')
      const deleted = await stores.tenants.update(TENANT_ID, (tenant) => ({ ...tenant, isDeleted: true }))
      await finishTenantDeletion(stores, deleted)
    },
    async (store) => {
      const stores = storesOver(store, 3)
      const found = await stores.tenants.read(TENANT_ID)
      if (found?.isDeleted !== true) return
      await finishTenantDeletion(stores, found)
      const retired = await stores.timelines.retire(REF, 'deleted')
      await finishRetirement(stores, retired, NEXT_ID)
      expect(await stores.tenants.read(TENANT_ID)).toMatchObject({ timelines: [], removals: [REMOVAL] })
    },
  )
})

test('a timeline that is about to begin again does not, where its tenant was deleted in the meantime', async () => {
  const stores = storesOver(await placed(), 2)
  const retired = await stores.timelines.retire(REF, 'restarted')
  await stores.tenants.update(TENANT_ID, (tenant) => ({ ...tenant, isDeleted: true }))
  await finishRetirement(stores, retired, NEXT_ID)
  expect(await stores.tenants.read(TENANT_ID)).toMatchObject({ timelines: [], removals: [REMOVAL] })
})

test('a request that comes with a deletion is refused or part of what is removed', async () => {
  const store = await placed()
  const stores = storesOver(store, 2)
  const adding = stores.timelines.update(REF, (timeline) => ({
    ...timeline,
    safekeeperNodes: ['sk-1', 'sk-2'],
  }))
  const [added] = await Promise.allSettled([adding, deleteTimeline(stores, REF)])
  const tenant = await stores.tenants.find(TENANT_ID)
  const nodes = tenant.removals.flatMap(({ safekeeperNodes }) => safekeeperNodes)
  expect(nodes).toEqual(added.status === 'fulfilled' ? ['sk-1', 'sk-2'] : ['sk-1'])
})
