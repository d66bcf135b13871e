// Goal: control planes of two versions may change the same documents. Method: a document with fields of a later version, at
// every depth, is changed and read back raw; one that a later version closed to this one is refused.
import { getIfPresent, memoryObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { expect, test } from 'vitest'
import { ConfigurationStore } from './configuration-store.ts'
import { leadUnder } from '../../test/support.ts'
import { FPW_INITIAL } from './tenant-document.ts'
import { requestSwitch } from '../reconcile/fpw-switch.ts'
import { TenantStore } from './tenant-store.ts'

const TENANT_ID = '1'.repeat(32)
const TIMELINE_ID = '2'.repeat(32)
const KEY = `control/tenants/${TENANT_ID}.json`

const stored = {
  version: 1,
  minReader: 1,
  epoch: 0,
  tenantId: TENANT_ID,
  name: 'acme',
  requestId: '',
  postgresMajor: 17,
  shardCount: 1,
  stripeBlocks: 256,
  imageThresholdRecords: 32,
  settings: {},
  createdAtS: 0,
  quota: { bytes: 7 },
  timelines: [
    {
      timelineId: TIMELINE_ID,
      name: 'main',
      startLsn: '0/0',
      bootstrapped: true,
      safekeeperNodes: [],
      shards: [{ node: 'pageserver-1', generation: 1, split: { into: 4 } }],
      computeHost: '',
      addresses: {},
      sqlPort: 0,
      specGeneration: 0,
      specText: '',
      fpw: { ...FPW_INITIAL, policy: { bytes: 8192 } },
      retention: { days: 7 },
    },
  ],
}

async function put(store: ObjectStore, key: string, value: unknown): Promise<void> {
  await store.putIfAbsent(key, Buffer.from(JSON.stringify(value)))
}
async function read(store: ObjectStore, key: string): Promise<unknown> {
  const found = await getIfPresent(store, key)
  return JSON.parse(Buffer.from(found?.bytes ?? []).toString())
}

test('a change keeps the fields of a later version, at every depth', async () => {
  const store = memoryObjectStore()
  await put(store, KEY, stored)
  const tenants = new TenantStore(store, leadUnder(1))
  await tenants.update(TENANT_ID, (document) => ({
    ...document,
    timelines: document.timelines.map((item) => ({ ...item, fpw: requestSwitch(item.fpw, 'off', 5) })),
  }))
  expect(await read(store, KEY)).toMatchObject({
    quota: { bytes: 7 },
    timelines: [
      {
        shards: [{ split: { into: 4 } }],
        fpw: { wanted: 'off', policy: { bytes: 8192 } },
        retention: { days: 7 },
      },
    ],
  })
})

test('a document that wants a later reader is refused and stays as it is', async () => {
  const store = memoryObjectStore()
  await put(store, KEY, { ...stored, minReader: 2 })
  const tenants = new TenantStore(store, leadUnder(1))
  const change = tenants.update(TENANT_ID, (document) => ({ ...document, name: 'other' }))
  await expect(change).rejects.toMatchObject({ code: 'bad_file' })
  expect(await read(store, KEY)).toEqual({ ...stored, minReader: 2 })
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

test('documents under a wrong name, and text that is no name, are refused', async () => {
  const store = memoryObjectStore()
  const other = '5'.repeat(32)
  await put(store, KEY, stored)
  await put(store, `control/tenants/${other}.json`, stored)
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
