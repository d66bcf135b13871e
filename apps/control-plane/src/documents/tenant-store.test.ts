// Goal: control planes of two versions may change the same documents. Method: a document with fields of a later
// version, at every depth, is changed and read back raw; one that a later version closed to this one is refused.
import { present } from '@understory/base'
import { getIfPresent, memoryObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { describe, expect, test } from 'vitest'
import { ConfigurationStore } from './configuration-store.ts'
import { REF, TENANT_ID, TIMELINE_ID, aTenant, aTimeline, leadUnder } from '../../test/support.ts'
import { removalOf } from '../reconcile/retirement.ts'
import { FPW_INITIAL } from './timeline-document.ts'
import { requestSwitch } from '../reconcile/fpw-switch.ts'
import { TenantStore } from './tenant-store.ts'
import { TimelineStore } from './timeline-store.ts'

const KEY = `control/tenants/${TENANT_ID}.json`
const TIMELINE_KEY = `control/timelines/${TENANT_ID}/${TIMELINE_ID}.json`

const tenant = { ...aTenant({ timelines: [{ timelineId: TIMELINE_ID, name: 'main' }] }), quota: { bytes: 7 } }
const timeline = {
  ...aTimeline({ bootstrapped: true }),
  shards: [{ node: 'pageserver-1', generation: 1, split: { into: 4 } }],
  fpw: { ...FPW_INITIAL, policy: { bytes: 8192 } },
  retention: { days: 7 },
}

async function put(store: ObjectStore, key: string, value: unknown): Promise<void> {
  await store.putIfAbsent(key, Buffer.from(JSON.stringify(value)))
}
async function read(store: ObjectStore, key: string): Promise<unknown> {
  const found = await getIfPresent(store, key)
  return JSON.parse(Buffer.from(found?.bytes ?? []).toString())
}

function storesOver(store: ObjectStore, epoch = 1): { tenants: TenantStore; timelines: TimelineStore } {
  const tenants = new TenantStore(store, leadUnder(epoch))
  return { tenants, timelines: new TimelineStore(store, leadUnder(epoch), tenants) }
}

test('a change keeps the fields of a later version, at every depth', async () => {
  const store = memoryObjectStore()
  await put(store, KEY, tenant)
  await put(store, TIMELINE_KEY, timeline)
  const { tenants, timelines } = storesOver(store)
  await tenants.update(TENANT_ID, (document) => ({ ...document, settings: { work_mem: '8MB' } }))
  await timelines.update(REF, (item) => ({ ...item, fpw: requestSwitch(item.fpw, 'off', 5) }))
  expect(await read(store, KEY)).toMatchObject({ quota: { bytes: 7 }, settings: { work_mem: '8MB' } })
  expect(await read(store, TIMELINE_KEY)).toMatchObject({
    shards: [{ split: { into: 4 } }],
    fpw: { wanted: 'off', policy: { bytes: 8192 } },
    retention: { days: 7 },
  })
})

test('a document that wants a later reader is refused and stays as it is', async () => {
  const store = memoryObjectStore()
  await put(store, KEY, { ...tenant, minReader: 2 })
  await put(store, TIMELINE_KEY, { ...timeline, minReader: 2 })
  const { tenants, timelines } = storesOver(store)
  const change = tenants.update(TENANT_ID, (document) => ({ ...document, name: 'other' }))
  await expect(change).rejects.toMatchObject({ code: 'bad_file' })
  await expect(timelines.update(REF, (item) => ({ ...item, sqlPort: 1 }))).rejects.toMatchObject({
    code: 'bad_file',
  })
  expect(await read(store, KEY)).toEqual({ ...tenant, minReader: 2 })
  expect(await read(store, TIMELINE_KEY)).toEqual({ ...timeline, minReader: 2 })
})

describe('the document of a timeline', () => {
  test('is made by its first change, and only while its tenant says what it begins with', async () => {
    const store = memoryObjectStore()
    const { tenants, timelines } = storesOver(store)
    const created = await tenants.create(aTenant())
    const [entry] = created.timelines
    expect(await timelines.read(created, present(entry, 'entry'))).toEqual(aTimeline())
    await timelines.update(REF, (item) => ({ ...item, sqlPort: 5 }))
    expect(await timelines.read(created, present(entry, 'entry'))).toMatchObject({ sqlPort: 5, epoch: 1 })
    await store.delete([TIMELINE_KEY])
    const marked = { timelineId: TIMELINE_ID, name: 'main' }
    await tenants.update(TENANT_ID, (document) => ({ ...document, timelines: [marked] }))
    // It was lost: a new one would give out generations that were given out before.
    for (const reading of [timelines.read(created, marked), timelines.update(REF, (item) => item)])
      await expect(reading).rejects.toMatchObject({
        code: 'bad_file',
        message: expect.stringContaining('is missing'),
      })
    expect(await store.head(TIMELINE_KEY)).toBeUndefined()
  })

  test('is not changed any more once it is retired, and the first reason stays', async () => {
    const store = memoryObjectStore()
    const { tenants, timelines } = storesOver(store)
    await tenants.create(aTenant())
    await timelines.retire(REF, 'restarted')
    await expect(timelines.update(REF, (item) => item)).rejects.toMatchObject({ code: 'unknown_timeline' })
    expect(await timelines.retire(REF, 'deleted')).toMatchObject({ retired: 'restarted' })
  })

  test('is not written under an earlier lead once it was taken under a later one', async () => {
    const store = memoryObjectStore()
    const older = storesOver(store, 1)
    const newer = storesOver(store, 2)
    await older.tenants.create(aTenant())
    await older.timelines.update(REF, (item) => ({ ...item, sqlPort: 1 }))
    expect(await newer.timelines.take(REF)).toMatchObject({ epoch: 2, sqlPort: 1 })
    await expect(older.timelines.update(REF, (item) => ({ ...item, sqlPort: 2 }))).rejects.toMatchObject({
      code: 'stale',
    })
    expect(await newer.timelines.take(REF)).toMatchObject({ sqlPort: 1 })
  })

  test('is not acted on without its tenant, nor where the tenant does not list it: it is an orphan', async () => {
    const store = memoryObjectStore()
    const { tenants, timelines } = storesOver(store)
    const unlisted = { tenantId: TENANT_ID, timelineId: '6'.repeat(32) }
    const alone = { tenantId: '7'.repeat(32), timelineId: '8'.repeat(32) }
    await tenants.create(aTenant())
    await timelines.take(REF)
    for (const ref of [unlisted, alone])
      await put(store, `control/timelines/${ref.tenantId}/${ref.timelineId}.json`, { ...timeline, ...ref })
    expect(await timelines.orphans()).toEqual([unlisted, alone])
    const removal = { ...removalOf(aTimeline()), timelineId: unlisted.timelineId }
    await tenants.update(TENANT_ID, (document) => ({ ...document, removals: [removal] }))
    expect(await timelines.orphans()).toEqual([alone])
  })

  test('is refused under the name of another', async () => {
    const store = memoryObjectStore()
    const { tenants, timelines } = storesOver(store)
    await tenants.create(aTenant())
    await put(store, TIMELINE_KEY, { ...timeline, timelineId: '6'.repeat(32) })
    await expect(timelines.take(REF)).rejects.toMatchObject({ code: 'bad_file' })
  })
})

test('a newer configuration keeps what a later version says beside it, not the files of before', async () => {
  const store = memoryObjectStore()
  const key = `control/configurations/${TIMELINE_ID}.json`
  const files = { 'pg_hba.conf': Buffer.from('x').toString('base64') }
  await put(store, key, { version: 1, term: '1', number: '1', files, soundFiles: {}, certificates: ['a'] })
  const configurations = new ConfigurationStore(store)
  await configurations.publish(TIMELINE_ID, {
    version: { term: 2n, number: 1n },
    files: {},
    soundFiles: {},
  })
  expect(await read(store, key)).toMatchObject({ term: '2', files: {}, certificates: ['a'] })
})

test('documents under a wrong name, and malformed names, are refused', async () => {
  const store = memoryObjectStore()
  const other = '5'.repeat(32)
  await put(store, KEY, tenant)
  await put(store, `control/tenants/${other}.json`, tenant)
  await put(store, 'control/names/acme', { tenantId: TENANT_ID })
  await put(store, 'control/names/borrowed', { tenantId: TENANT_ID })
  await put(store, 'control/names/odd', { tenantId: '../names/acme' })
  await put(store, 'control/names/a/b', { tenantId: TENANT_ID })
  const tenants = new TenantStore(store, leadUnder(1))
  expect((await tenants.find('acme')).tenantId).toBe(TENANT_ID)
  await expect(tenants.find(other)).rejects.toMatchObject({
    code: 'bad_file',
    message: `"control/tenants/${other}.json" is of tenant ${TENANT_ID}`,
  })
  await expect(tenants.find('borrowed')).rejects.toMatchObject({ code: 'bad_file' })
  await expect(tenants.find('odd')).rejects.toMatchObject({ code: 'bad_file' })
  for (const name of ['a/b', '../tenants/x', '', '__proto__'])
    await expect(tenants.find(name)).rejects.toMatchObject({ code: 'bad_argument' })
})
