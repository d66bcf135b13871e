/** How long the event loop was kept from its next turn. */
import type { monitorEventLoopDelay } from 'node:perf_hooks'

export type LoopMonitor = ReturnType<typeof monitorEventLoopDelay>

export interface LoopDelay {
  readonly maxMs: number
  readonly p999Ms: number
  readonly p99Ms: number
}

/** The timer that measures is itself a millisecond apart. */
export function loopDelayOf(delay: LoopMonitor): LoopDelay {
  return {
    maxMs: delay.max / 1e6,
    p999Ms: delay.percentile(99.9) / 1e6,
    p99Ms: delay.percentile(99) / 1e6,
  }
}
