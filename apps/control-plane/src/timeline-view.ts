/** A timeline's document with what its processes say now: what the API shows and `/metrics` renders. */
import type { Observation } from './timeline-reconciler.ts'
import type { TenantDocument, TimelineDocument } from './tenant-document.ts'

export interface TimelineView {
  readonly tenant: TenantDocument
  readonly timeline: TimelineDocument
  readonly observed: Observation
}
