/**
 * Timeline documents in the object store. The tenant's document decides which timelines there are: a timeline is listed
 * there before its document is made, and is no longer listed when that is removed. So a document that is not listed is
 * not acted on by anything; it is an orphan, left by a control plane that was overtaken, or by hand.
 */
import { parseTenantId, parseTimelineId, fail } from '@understory/base'
import type { ObjectStore } from '@understory/object-store'
import { TIMELINE_DOCUMENTS_PREFIX, timelineDocumentKey, timelineOfDocumentKey } from '@understory/protocol'
import type { TimelineRef } from '@understory/rpc'
import { readJson } from './json-object.ts'
import type { Leadership } from './leader-lease.ts'
import { changeDocument, unreadable, wrongOwner } from './led-document.ts'
import type { Versioned } from './led-document.ts'
import { entryOf } from './tenant-document.ts'
import type { TenantDocument, TimelineEntry } from './tenant-document.ts'
import type { TenantStore } from './tenant-store.ts'
import { newTimeline, readTimelineDocument } from './timeline-document.ts'
import type { TimelineDocument } from './timeline-document.ts'

type Change = (timeline: TimelineDocument) => TimelineDocument

export class TimelineStore {
  readonly #store: ObjectStore
  readonly #lease: Leadership
  readonly #tenants: TenantStore

  constructor(store: ObjectStore, lease: Leadership, tenants: TenantStore) {
    this.#store = store
    this.#lease = lease
    this.#tenants = tenants
  }

  /**
   * The document of a timeline that `tenant` lists, also of a retired one; of a new timeline, what it begins with.
   * Error: `bad_file`, also where it was lost.
   */
  async read(tenant: TenantDocument, entry: TimelineEntry): Promise<TimelineDocument> {
    const ref = { tenantId: tenant.tenantId, timelineId: entry.timelineId }
    return (await this.#read(ref))?.document ?? beginningOf(ref, entry)
  }

  /**
   * Stores what `change` makes of the newest document and returns it; `change` does nothing by returning its argument.
   * The first change makes the document. Errors: `unknown_timeline` where it is retired or not listed; `stale` where
   * another control plane leads by now; `conflict`, `bad_file`.
   */
  update(ref: TimelineRef, change: Change): Promise<TimelineDocument> {
    return this.#change(ref, (timeline) => {
      if (timeline.retired !== undefined) throw unknownTimeline(ref.timelineId)
      return change(timeline)
    })
  }

  /** Makes it where it is new, and writes it under this lead, in any state. Errors: those of `update`. */
  take(ref: TimelineRef): Promise<TimelineDocument> {
    return this.#change(ref, (timeline) => timeline)
  }

  /**
   * Its last change: its tenant's document follows (retirement.ts). Idempotent: the first reason stays. Errors: those
   * of `update`.
   */
  retire(ref: TimelineRef, reason: NonNullable<TimelineDocument['retired']>): Promise<TimelineDocument> {
    return this.#change(ref, (timeline) =>
      timeline.retired === undefined ? { ...timeline, retired: reason } : timeline,
    )
  }

  /** Of a timeline that is not listed any more. */
  async remove(ref: TimelineRef): Promise<void> {
    this.#lease.requireHeld()
    await this.#store.delete([timelineDocumentKey(ref)])
  }

  /** Documents that no tenant lists, nor has to remove. */
  async orphans(): Promise<TimelineRef[]> {
    const keys: string[] = []
    for await (const { key } of this.#store.list(TIMELINE_DOCUMENTS_PREFIX)) keys.push(key)
    // In this order: a timeline is listed before its document is made.
    const known = new Set(
      (await this.#tenants.list()).flatMap(({ tenantId, timelines, removals }) =>
        [...timelines, ...removals].map(({ timelineId }) => timelineDocumentKey({ tenantId, timelineId })),
      ),
    )
    const orphans: TimelineRef[] = []
    for (const key of keys) {
      // Its removal may have ended since it was listed.
      if (known.has(key) || (await this.#store.head(key)) === undefined) continue
      orphans.push(timelineOfDocumentKey(key))
    }
    return orphans
  }

  #change(ref: TimelineRef, change: Change): Promise<TimelineDocument> {
    const read = async (): Promise<Versioned<TimelineDocument>> => {
      const found = await this.#read(ref)
      if (found !== undefined) return found
      const tenant = await this.#tenants.read(ref.tenantId)
      const entry = tenant === undefined ? undefined : entryOf(tenant, ref.timelineId)
      if (entry === undefined) throw unknownTimeline(ref.timelineId)
      return { document: beginningOf(ref, entry), etag: undefined }
    }
    return changeDocument(this.#store, this.#lease, timelineDocumentKey(ref), read, change)
  }

  async #read(ref: TimelineRef): Promise<Versioned<TimelineDocument> | undefined> {
    this.#lease.requireHeld()
    const key = timelineDocumentKey({
      tenantId: parseTenantId(ref.tenantId),
      timelineId: parseTimelineId(ref.timelineId),
    })
    const found = await readJson(this.#store, key)
    if (found === undefined) return undefined
    const read = readTimelineDocument(found.json)
    if ('problem' in read) throw unreadable('timeline document', key, read.problem)
    const { document } = read
    if (document.tenantId !== ref.tenantId || document.timelineId !== ref.timelineId)
      throw wrongOwner(key, `timeline ${document.timelineId} of tenant ${document.tenantId}`)
    return { document, etag: found.etag }
  }
}

function beginningOf(ref: TimelineRef, entry: TimelineEntry): TimelineDocument {
  if (entry.beginning !== undefined) return newTimeline(ref.tenantId, entry, entry.beginning)
  throw fail('bad_file', `timeline document "${timelineDocumentKey(ref)}" is missing`, {
    hint: 'Restore the object from a backup.',
  })
}

export const unknownTimeline = (timelineId: string): Error =>
  fail(
    'unknown_timeline',
    `timeline ${timelineId} was deleted, or its bootstrap began again under another id`,
    {
      hint: 'List the timelines with `understory timeline list`.',
    },
  )
