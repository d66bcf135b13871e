// Goal: one control plane acts at a time, and one that was overtaken changes nothing. Method: several over one store in
// memory, with a short lease.
import { fail } from '@understory/base'
import { realClock, realRng, silentLog } from '@understory/env'
import { memoryObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { expect, test } from 'vitest'
import { LeaderLease } from './leader-lease.ts'
import { aTenant, leadUnder } from '../../test/support.ts'
import type { TenantDocument } from './tenant-document.ts'
import { TenantStore } from './tenant-store.ts'

const LEASE_MS = 200
const forever = new AbortController().signal

const lead = (store: ObjectStore, nodeId: string): LeaderLease =>
  new LeaderLease({ store, nodeId, leaseMs: LEASE_MS, clock: realClock, rng: realRng, log: silentLog })

const TENANT = aTenant()

test('a second control plane waits while the first lives, and takes over when it was released', async () => {
  const store = memoryObjectStore()
  let renewals = 0
  const renewing: ObjectStore = new Proxy(store, {
    get: (target, name: keyof ObjectStore) => {
      if (name === 'putIfMatch') renewals++
      return (target[name] as (...args: unknown[]) => unknown).bind(target)
    },
  })
  const first = lead(renewing, 'a')
  await first.acquire(forever)
  expect(first.epoch).toBe(1)
  const second = lead(store, 'b')
  let isLeading = false
  const acquired = second.acquire(forever).then(() => (isLeading = true))
  // Five renewals are a lease: three leases pass.
  await expect.poll(() => renewals, { timeout: 10_000 }).toBeGreaterThan(15)
  expect(isLeading).toBe(false)
  expect(() => second.epoch).toThrow('control plane "b" does not lead, "a" does')
  await first.release()
  await acquired
  expect(second.epoch).toBe(2)
  await second.release()
})

test('a store that is away is waited for, and the leader from before leads on', async () => {
  const inner = memoryObjectStore()
  const isAway = { value: false }
  let refused = 0
  const refuse = (): Promise<never> => {
    refused++
    return Promise.reject(fail('unavailable', 'the store does not answer'))
  }
  const store: ObjectStore = new Proxy(inner, {
    get: (target, name: keyof ObjectStore) =>
      isAway.value ? refuse : (target[name] as (...args: unknown[]) => unknown).bind(target),
  })
  const [first, second] = [lead(store, 'a'), lead(store, 'b')]
  await first.acquire(forever)
  const stop = new AbortController()
  const acquired = second.acquire(stop.signal)
  await expect.poll(() => second.isStandby).toBe(true)
  isAway.value = true
  await expect.poll(() => second.isStandby).toBe(false)
  // It is away for longer than a lease, of which both have five tries.
  const refusedBefore = refused
  await expect.poll(() => refused - refusedBefore, { timeout: 10_000 }).toBeGreaterThan(12)
  isAway.value = false
  await expect.poll(() => second.isStandby).toBe(true)
  expect(first.epoch).toBe(1)
  isAway.value = true
  stop.abort()
  await expect(acquired).rejects.toMatchObject({ code: 'cancelled' })
  isAway.value = false
  await first.release()
})

test('one that is silent for a lease is overtaken, and learns of it', async () => {
  const store = memoryObjectStore()
  const first = lead(store, 'a')
  // Its renewals do not come, as when it is frozen.
  const isFrozen = { value: true }
  const frozen: ObjectStore = new Proxy(store, {
    get: (target, name: keyof ObjectStore) =>
      name === 'putIfMatch' && isFrozen.value
        ? () => Promise.reject(new Error('frozen'))
        : (target[name] as (...args: unknown[]) => unknown).bind(target),
  })
  const silent = lead(frozen, 'c')
  await silent.acquire(forever)
  await first.acquire(forever)
  expect(first.epoch).toBe(2)
  isFrozen.value = false
  expect(await silent.lost).toContain('"a" has taken the lead with epoch 2')
  expect(() => silent.epoch).toThrow('does not lead')
  await first.release()
})

test('a new process of the same node takes over at once', async () => {
  const store = memoryObjectStore()
  const before = lead(store, 'a')
  await before.acquire(forever)
  const after = lead(store, 'a')
  await after.acquire(forever)
  expect(after.epoch).toBe(2)
  expect(await before.lost).toContain('epoch 2')
  await after.release()
})

test('documents that a later lead has written are not written by an earlier one', async () => {
  const store = memoryObjectStore()
  const older = new TenantStore(store, leadUnder(1))
  const newer = new TenantStore(store, leadUnder(2))
  await older.create(TENANT)
  const rename = (name: string) => (document: TenantDocument) => ({ ...document, settings: { name } })
  await older.update(TENANT.tenantId, rename('one'))
  // Only looked at, and nevertheless its own from now on.
  expect((await newer.update(TENANT.tenantId, (document) => document)).epoch).toBe(2)
  await expect(older.update(TENANT.tenantId, rename('two'))).rejects.toMatchObject({ code: 'stale' })
  expect((await newer.find('acme')).settings).toEqual({ name: 'one' })
})

test('a creation that was cut short behind its claim of the name does not keep the name', async () => {
  const store = memoryObjectStore()
  const failing: ObjectStore = new Proxy(store, {
    get: (target, name: keyof ObjectStore) =>
      name === 'putIfAbsent'
        ? (key: string, bytes: Uint8Array) =>
            key.startsWith('control/tenants/')
              ? Promise.reject(new Error('cut short'))
              : store.putIfAbsent(key, bytes)
        : (target[name] as (...args: unknown[]) => unknown).bind(target),
  })
  await expect(new TenantStore(failing, leadUnder(1)).create(TENANT)).rejects.toThrow('cut short')
  const tenants = new TenantStore(store, leadUnder(1))
  await expect(tenants.find('acme')).rejects.toMatchObject({ code: 'unknown_tenant' })

  const again = { ...TENANT, tenantId: '3'.repeat(32) }
  // Under the id of the claim: its author may still come and write the document.
  expect((await tenants.create(again)).tenantId).toBe(TENANT.tenantId)
  expect((await tenants.find('acme')).tenantId).toBe(TENANT.tenantId)
  await expect(tenants.create(TENANT)).rejects.toMatchObject({ code: 'already_exists' })
  await expect(tenants.create(again)).rejects.toMatchObject({ code: 'already_exists' })
  expect(await tenants.list()).toHaveLength(1)
})

test('one that waits stands by once it has seen the other renew its lead, and no longer than a lease after that', async () => {
  const store = memoryObjectStore()
  const first = lead(store, 'a')
  await first.acquire(forever)
  const second = lead(store, 'b')
  expect([first.isHeld, first.isStandby, second.isStandby]).toEqual([true, false, false])
  const stop = new AbortController()
  const waiting = second.acquire(stop.signal).catch(() => undefined)
  await expect.poll(() => second.isStandby).toBe(true)
  await first.release()
  await waiting
  expect([second.isHeld, second.isStandby]).toEqual([true, false])
  stop.abort()
  await second.release()
})
