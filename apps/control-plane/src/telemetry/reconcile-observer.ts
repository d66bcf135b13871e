/** The reports of reconcilers to telemetry: failures, and requests that have ended. */
import type { Span, Telemetry } from '@understory/telemetry'
import type { METRICS } from './metrics.ts'
import type {
  FpwState,
  FpwStepName,
  SafekeeperChange,
  TimelineDocument,
} from '../documents/timeline-document.ts'

export type ControlTelemetry = Telemetry<typeof METRICS>

export class ReconcileObserver {
  readonly #telemetry: ControlTelemetry
  /** Traces of switches under way, by timeline. */
  readonly #switches = new Map<string, { readonly generation: number; readonly root: Span }>()

  constructor(telemetry: ControlTelemetry) {
    this.#telemetry = telemetry
    // There from the beginning, so that a first one is seen as a rise.
    telemetry.metrics.reconcileFailures.of({})
    for (const direction of ['off', 'on'] as const) telemetry.metrics.fpwSwitches.of({ direction })
  }

  failed(): void {
    this.#telemetry.metrics.reconcileFailures.of({}).add(1)
  }

  /** Carries out a step of a switch; calls made for it hang below its span. */
  async carryOut<T>(
    { timelineId, fpw }: TimelineDocument,
    step: FpwStepName,
    work: () => Promise<T>,
  ): Promise<T> {
    const { traces } = this.#telemetry
    if (traces === undefined) return work()
    let known = this.#switches.get(timelineId)
    if (known?.generation !== fpw.generation) {
      const attributes = { timeline: timelineId, wanted: fpw.wanted }
      const root = traces.root('fpw switch', { attributes, isAlwaysRecorded: true })
      if (root === undefined) return work()
      known = { generation: fpw.generation, root }
      this.#switches.set(timelineId, known)
    }
    const span = known.root.child(step)
    try {
      const result = await traces.run(span, work)
      span.end()
      return result
    } catch (error) {
      span.end('failed')
      throw error
    }
  }

  /** A step is done; the last one ends the switch. */
  fpwStepped(timelineId: string, { phase, tookMs, sinceLsn, generation }: FpwState): void {
    if (phase !== 'on' && phase !== 'off') return
    const { fpwSwitches, fpwSwitchDuration } = this.#telemetry.metrics
    fpwSwitches.of({ direction: phase }).add(1)
    fpwSwitchDuration.of({ direction: phase }).recordMs(tookMs)
    const known = this.#switches.get(timelineId)
    this.#switches.delete(timelineId)
    if (known?.generation !== generation) return
    known.root.set({ lsn: sinceLsn })
    known.root.end()
  }

  membershipStepped({ steps, reason, tookMs, isCancelled }: SafekeeperChange): void {
    if (isCancelled || !steps.every(({ done }) => done)) return
    const { membershipChanges, membershipChangeDuration } = this.#telemetry.metrics
    membershipChanges.of({ reason }).add(1)
    membershipChangeDuration.of({}).recordMs(tookMs)
  }
}
