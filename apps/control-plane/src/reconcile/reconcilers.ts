/** The reconcilers of all timelines that this control plane leads, one each. */
import type { TimelineRef } from '@understory/rpc'
import type { TenantDocument } from '../documents/tenant-document.ts'
import { TimelineReconciler } from './timeline-reconciler.ts'
import type { ReconcilerParts } from './timeline-reconciler.ts'

export class Reconcilers {
  readonly #parts: ReconcilerParts
  readonly #running = new Map<
    string,
    { readonly reconciler: TimelineReconciler; readonly ended: Promise<void> }
  >()

  constructor(parts: Omit<ReconcilerParts, 'timelinesCount'>) {
    this.#parts = { ...parts, timelinesCount: () => this.#running.size }
  }

  get count(): number {
    return this.#running.size
  }

  /** Whether something of the timeline may be under way. */
  has(timelineId: string): boolean {
    return this.#running.has(timelineId)
  }

  /** The timeline's, begun where it does not run yet. It ends by itself when its timeline is gone or has another id. */
  of({ tenantId, timelineId }: TimelineRef): TimelineReconciler {
    const known = this.#running.get(timelineId)
    if (known !== undefined) return known.reconciler
    const reconciler = new TimelineReconciler(this.#parts, { tenantId, timelineId })
    const ended = reconciler.run().finally(() => this.#running.delete(timelineId))
    this.#running.set(timelineId, { reconciler, ended })
    return reconciler
  }

  /** Of every timeline that the tenant lists; none of a deleted one. */
  ofTenant({ tenantId, isDeleted, timelines }: TenantDocument): TimelineReconciler[] {
    return isDeleted ? [] : timelines.map(({ timelineId }) => this.of({ tenantId, timelineId }))
  }

  /** Its next pass begins at once, where it runs. */
  wake(timelineId: string): void {
    this.#running.get(timelineId)?.reconciler.wake()
  }

  /** Resolves once all have ended. */
  async stop(): Promise<void> {
    const all = [...this.#running.values()]
    await Promise.all(
      all.map(async ({ reconciler, ended }) => {
        await reconciler.stop()
        await ended
      }),
    )
  }
}
