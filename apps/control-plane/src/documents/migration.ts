/**
 * From version 1 of a tenant's document, which had its timelines in it, to a document for each timeline.
 *
 *   1  the old document is taken under this lead's epoch: no earlier control plane writes it any more
 *   2  each timeline's document is written as the old document has it, over what an interrupted migration left
 *   3  the old document is replaced by version 2
 *
 * Until 3 the old document alone counts, and from 3 on the new ones; where a migration ends before, the next one begins
 * again. A control plane that was overtaken is refused in each step: by the epoch in 1 and 2, by the version read in 3.
 */
import { fail } from '@understory/base'
import type { ObjectStore } from '@understory/object-store'
import { tenantDocumentKey, timelineDocumentKey } from '@understory/protocol'
import { readJson, writeJson } from './json-object.ts'
import type { Leadership } from './leader-lease.ts'
import { requireNotNewer, unreadable, wrongOwner } from './led-document.ts'
import { isVersion1, readTenantDocumentV1, splitTenant } from './tenant-document-v1.ts'
import { readTimelineDocument } from './timeline-document.ts'
import type { TimelineDocument } from './timeline-document.ts'

const ATTEMPTS_MAX = 20

/**
 * Does nothing where the document is of another version, or is not there. At most one at a time for a tenant within a
 * process. Errors: `stale` where another control plane leads by now; `bad_file`; `conflict`.
 */
export async function migrateTenant(store: ObjectStore, lease: Leadership, tenantId: string): Promise<void> {
  const key = tenantDocumentKey(tenantId)
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const found = await readJson(store, key)
    if (found === undefined || !isVersion1(found.json)) return
    const read = readTenantDocumentV1(found.json)
    if ('problem' in read) throw unreadable('tenant document', key, read.problem)
    if (read.document.tenantId !== tenantId) throw wrongOwner(key, `tenant ${read.document.tenantId}`)
    const { epoch } = lease
    requireNotNewer(read.document.epoch, epoch)
    const taken = { ...read.document, epoch }
    const etag = read.document.epoch === epoch ? found.etag : await writeJson(store, key, taken, found.etag)
    if (etag === undefined) continue
    const { tenant, timelines } = splitTenant(taken)
    for (const timeline of timelines) await writeOver(store, timeline)
    if ((await writeJson(store, key, tenant, etag)) !== undefined) return
  }
  throw fail('conflict', `"${key}" was changed by others ${ATTEMPTS_MAX} times in a row`)
}

async function writeOver(store: ObjectStore, timeline: TimelineDocument): Promise<void> {
  const key = timelineDocumentKey(timeline)
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const found = await readJson(store, key)
    const known = found === undefined ? undefined : readTimelineDocument(found.json)
    if (known !== undefined && 'document' in known) requireNotNewer(known.document.epoch, timeline.epoch)
    if ((await writeJson(store, key, timeline, found?.etag)) !== undefined) return
  }
  throw fail('conflict', `"${key}" was changed by others ${ATTEMPTS_MAX} times in a row`)
}
