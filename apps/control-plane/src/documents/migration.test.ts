/**
 * Goal: a store of the release before is read as if it had always had a document for each timeline, with any process
 * killed and any control planes running. Method: the golden document of version 1; a migration that ends, or stops for
 * another control plane, before and after each operation of the store.
 */
import { readFileSync } from 'node:fs'
import { present } from '@understory/base'
import { realClock, realRng } from '@understory/env'
import { getIfPresent, localObjectStore, memoryObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { temporaryDirectory } from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import { Killed, interceptStore, killedAt, leadUnder } from '../../test/support.ts'
import { computeSpecOf, specDigest } from '../reconcile/compute-spec.ts'
import { readTenantDocumentV1 } from './tenant-document-v1.ts'
import type { TenantDocumentV1 } from './tenant-document-v1.ts'
import { TenantStore } from './tenant-store.ts'
import type { TimelineDocument } from './timeline-document.ts'
import { TimelineStore } from './timeline-store.ts'

const GOLDEN = readFileSync(new URL('../../testdata/tenant-document-v1.json', import.meta.url), 'utf8')
const TENANT_ID = '1'.repeat(32)
const [MAIN, FRESH] = ['2'.repeat(32), '3'.repeat(32)]
const MAIN_REF = { tenantId: TENANT_ID, timelineId: MAIN }
const KEY = `control/tenants/${TENANT_ID}.json`

const golden = (): TenantDocumentV1 => JSON.parse(GOLDEN) as TenantDocumentV1

async function oldStore(store: ObjectStore = memoryObjectStore()): Promise<ObjectStore> {
  await store.put(KEY, Buffer.from(GOLDEN))
  await store.put('control/names/shop', Buffer.from(JSON.stringify({ tenantId: TENANT_ID })))
  return store
}

function storesOver(store: ObjectStore, epoch: number) {
  const tenants = new TenantStore(store, leadUnder(epoch))
  return { tenants, timelines: new TimelineStore(store, leadUnder(epoch), tenants) }
}

async function everything(store: ObjectStore): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = {}
  for await (const { key } of store.list('control/'))
    found[key] = JSON.parse(Buffer.from((await store.get(key)).bytes).toString())
  return found
}

/** The contents of the store in the end, under this epoch, made from `old` by hand. */
function expectedFrom({ timelines, ...tenant }: TenantDocumentV1, epoch: number): Record<string, unknown> {
  const documents = timelines.map(({ specText, leftCopies, ...fields }) => [
    `control/timelines/${TENANT_ID}/${fields.timelineId}.json`,
    {
      version: 1,
      minReader: 1,
      epoch,
      tenantId: TENANT_ID,
      ...fields,
      specDigest: specText,
      retiredReplicas: leftCopies,
    },
  ])
  const listed = timelines.map(({ timelineId, name }) => ({ timelineId, name }))
  return {
    [KEY]: { ...tenant, version: 2, epoch, timelines: listed },
    'control/names/shop': { tenantId: TENANT_ID },
    ...Object.fromEntries(documents),
  }
}

async function read(store: ObjectStore, epoch: number): Promise<TimelineDocument[]> {
  const { tenants, timelines } = storesOver(store, epoch)
  const tenant = await tenants.find('shop')
  return Promise.all(tenant.timelines.map((entry) => timelines.read(tenant, entry)))
}

test('a store of the release before is read, and nothing of it is lost', async () => {
  const store = await oldStore()
  const { tenants, timelines } = storesOver(store, 8)
  const tenant = await tenants.find('shop')
  expect(await everything(store)).toEqual(expectedFrom(golden(), 8))
  const main = await timelines.read(tenant, present(tenant.timelines[0], 'entry'))
  expect(main).toMatchObject({ timelineId: MAIN, retiredReplicas: [{ node: 'sk-1', generation: 2 }] })
  // Its compute is not sent another spec.
  expect(specDigest(computeSpecOf(tenant, main))).toBe(main.specDigest)
  expect(await timelines.orphans()).toEqual([])
  // A second control plane finds nothing to migrate.
  await read(store, 9)
  expect(await everything(store)).toEqual(expectedFrom(golden(), 8))
})

test('the release before refuses what was migrated', async () => {
  const store = await oldStore()
  await read(store, 8)
  const { bytes } = present(await getIfPresent(store, KEY), 'document')
  expect(readTenantDocumentV1(JSON.parse(Buffer.from(bytes).toString()))).toEqual({
    problem: expect.stringContaining('version: Invalid input: expected 1'),
  })
})

describe.each(['memory', 'local'])('killed anywhere, over a store of kind %s', (kind) => {
  test.each([false, true])(
    'the next control plane ends the migration; the operation took effect: %s',
    async (isDone) => {
      for (let at = 1; ; at++) {
        await using folder = await temporaryDirectory()
        await using store =
          kind === 'local'
            ? await localObjectStore(folder.path, { clock: realClock, rng: realRng })
            : memoryObjectStore()
        await oldStore(store)
        const { store: dying, isKilled } = killedAt(store, at, isDone)
        await read(dying, 8).catch((error: unknown) => {
          if (!(error instanceof Killed)) throw error
        })
        if (!isKilled()) {
          expect(at).toBeGreaterThan(6)
          break
        }
        await read(store, 9)
        const isMigrated = (await everything(store))[KEY] as { epoch: number }
        const epochs = Object.values(await everything(store)).flatMap(
          (item) => (item as { epoch?: number }).epoch ?? [],
        )
        expect(new Set(epochs)).toEqual(new Set([isMigrated.epoch]))
        expect(await everything(store)).toEqual(expectedFrom(golden(), isMigrated.epoch))
      }
    },
  )
})

test('what the release before changed between two tries of a migration is not lost', async () => {
  for (let at = 1; ; at++) {
    const store = await oldStore()
    const { store: dying, isKilled } = killedAt(store, at, true)
    await read(dying, 8).catch(() => undefined)
    if (!isKilled()) break
    const { bytes } = await store.get(KEY)
    const left = JSON.parse(Buffer.from(bytes).toString()) as TenantDocumentV1
    if (left.version !== 1) continue
    // It leads with epoch 9, hands out generations, and takes a timeline away.
    const [main] = left.timelines
    const shards = present(main, 'main').shards.map(({ node, generation }) => ({
      node,
      generation: generation + 5,
    }))
    const changed = { ...left, epoch: 9, timelines: [{ ...present(main, 'main'), shards }] }
    await store.put(KEY, Buffer.from(JSON.stringify(changed)))
    await read(store, 10)
    const found = await everything(store)
    const expected = expectedFrom(changed, 10)
    const fresh = `control/timelines/${TENANT_ID}/${FRESH}.json`
    // The document that the first try has left of the other timeline is an orphan.
    const { [fresh]: orphan, ...others } = found
    expect(others).toEqual(expected)
    const { timelines } = storesOver(store, 10)
    expect(await timelines.orphans()).toEqual(
      orphan === undefined ? [] : [{ tenantId: TENANT_ID, timelineId: FRESH }],
    )
  }
})

test('a control plane that was overtaken in the middle of its migration changes nothing after that', async () => {
  let stalledCount = 0
  for (let at = 1; ; at++) {
    const store = await oldStore()
    let count = 0
    const stalling = interceptStore(store, async (_name, _args, call) => {
      if (++count === at) {
        const next = storesOver(store, 9)
        await next.tenants.update(TENANT_ID, (tenant) => ({ ...tenant, settings: { work_mem: '9MB' } }))
        await next.timelines.update(MAIN_REF, (main) => ({ ...main, sqlPort: 99 }))
      }
      return call()
    })
    const overtaken = await read(stalling, 8).then(
      () => 'done',
      (error: { code?: string }) => error.code,
    )
    if (count < at) break
    stalledCount++
    expect(['done', 'stale']).toContain(overtaken)
    const found = await everything(store)
    expect(found[KEY]).toMatchObject({ version: 2, epoch: 9, settings: { work_mem: '9MB' } })
    expect(found[`control/timelines/${TENANT_ID}/${MAIN}.json`]).toMatchObject({ epoch: 9, sqlPort: 99 })
  }
  expect(stalledCount).toBeGreaterThan(6)
})

test('requests that come at once see one migration, even if any of them is slow, and their changes stay', async () => {
  for (let at = 1; ; at++) {
    const store = await oldStore()
    const resume = Promise.withResolvers<void>()
    let count = 0
    const slow = interceptStore(store, async (_name, _args, call) => {
      if (++count === at) await resume.promise
      return call()
    })
    const { tenants, timelines } = storesOver(slow, 8)
    const change = async (sqlPort: number): Promise<void> => {
      await tenants.find(TENANT_ID)
      await timelines.update(MAIN_REF, (main) => ({ ...main, sqlPort: main.sqlPort + sqlPort }))
    }
    const changes = [change(100), change(1_000)]
    // The one that is not slow gets as far as it can.
    for (let turns = 0; turns < 200; turns++) await new Promise((go) => setImmediate(go))
    resume.resolve()
    await Promise.all(changes)
    const found = await everything(store)
    expect(found[`control/timelines/${TENANT_ID}/${MAIN}.json`]).toMatchObject({ sqlPort: 5432 + 1_100 })
    if (count < at) break
  }
})
