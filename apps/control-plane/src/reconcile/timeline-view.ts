/** A timeline's document with what its processes say now: what the API shows and `/metrics` renders. */
import type { Lsn } from '@understory/base'
import type { Observation } from './timeline-reconciler.ts'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'

export interface TimelineView {
  readonly tenant: TenantDocument
  readonly timeline: TimelineDocument
  readonly observed: Observation
}

/** A timeline's safekeepers and the change of them. */
export interface SafekeepersView {
  readonly tenant: TenantDocument
  readonly timeline: TimelineDocument
  /** The newcomer that is furthest behind, while a change is under way. */
  readonly pull: { readonly flushLsn: Lsn; readonly goalLsn: Lsn } | undefined
}
