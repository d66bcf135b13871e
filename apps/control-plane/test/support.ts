/** The beginnings that several tests of the control plane share. */
import type { ObjectStore } from '@understory/object-store'
import type { Leadership } from '../src/documents/leader-lease.ts'
import { FPW_INITIAL, newTimeline } from '../src/documents/timeline-document.ts'
import type { TimelineDocument } from '../src/documents/timeline-document.ts'
import type { TenantDocument } from '../src/documents/tenant-document.ts'

export const TENANT_ID = '1'.repeat(32)
export const TIMELINE_ID = '2'.repeat(32)
export const REF = { tenantId: TENANT_ID, timelineId: TIMELINE_ID }

export const leadUnder = (epoch: number): Leadership => ({ epoch, requireHeld: () => undefined })

export const aTenant = (change: Partial<TenantDocument> = {}): TenantDocument => ({
  version: 2,
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
  allowsPlaintext: false,
  createdAtS: 0,
  removals: [],
  isDeleted: false,
  timelines: [{ timelineId: TIMELINE_ID, name: 'main', beginning: { sqlPort: 0, fpw: FPW_INITIAL } }],
  ...change,
})

export const aTimeline = (change: Partial<TimelineDocument> = {}): TimelineDocument => ({
  ...newTimeline(TENANT_ID, { timelineId: TIMELINE_ID, name: 'main' }, { sqlPort: 0, fpw: FPW_INITIAL }),
  ...change,
})

type Operation = (...args: readonly unknown[]) => unknown

/** `store` with every call led through `around`, which makes it by `call`, or does not. */
export const interceptStore = (
  store: ObjectStore,
  around: (name: keyof ObjectStore, args: readonly unknown[], call: () => unknown) => unknown,
): ObjectStore =>
  new Proxy(store, {
    get(target, name: keyof ObjectStore) {
      const member = target[name]
      if (typeof member !== 'function') return member
      return (...args: readonly unknown[]) =>
        around(name, args, () => (member as Operation).apply(target, [...args]))
    },
  })

export class Killed extends Error {}

/** `store` as a process has it that is killed at its operation `at`, before that takes effect or after. */
export function killedAt(
  store: ObjectStore,
  at: number,
  isEffective: boolean,
): { readonly store: ObjectStore; readonly isKilled: () => boolean } {
  let count = 0
  const dying = interceptStore(store, async (_name, _args, call) => {
    if (++count < at) return call()
    if (count === at && isEffective) await call()
    throw new Killed()
  })
  return { store: dying, isKilled: () => count >= at }
}
