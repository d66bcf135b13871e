/** Observes this process: event loop, garbage collection, heap, CPU, disk. Nothing of it runs unless it is begun. */
import { statfs } from 'node:fs/promises'
import { PerformanceObserver, constants, monitorEventLoopDelay, performance } from 'node:perf_hooks'
import { getHeapSpaceStatistics } from 'node:v8'
import type { Instruments, Meter } from './meter.ts'
import type { PROCESS_METRICS } from './process-metrics.ts'

type ProcessInstruments = Instruments<typeof PROCESS_METRICS>

/** Each look wakes the process: with a hundred a second an idle cluster burned a fiftieth of a core. */
const RESOLUTION_MS = 100
/** Two collections, one right after the other, get the same: without measurements there is no percentile. */
const WINDOW_MS_MIN = 1_000
const NS = 1e-9

const GC_KINDS: Readonly<Record<number, 'major' | 'minor' | 'incremental' | 'weakcb'>> = {
  [constants.NODE_PERFORMANCE_GC_MAJOR]: 'major',
  [constants.NODE_PERFORMANCE_GC_MINOR]: 'minor',
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL]: 'incremental',
  [constants.NODE_PERFORMANCE_GC_WEAKCB]: 'weakcb',
}

/** Returns how to end it. */
export function observeProcess(
  meter: Meter,
  instruments: ProcessInstruments,
  dataDirectory: string | undefined,
): () => void {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
  delay.enable()
  let before = performance.eventLoopUtilization()
  let windowSinceMs = performance.now()
  const collections = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { detail } = entry as { readonly detail?: { readonly kind: number } }
      const type = GC_KINDS[detail?.kind ?? -1]
      if (type !== undefined) instruments.gcDuration.of({ 'v8js.gc.type': type }).recordMs(entry.duration)
    }
  })
  collections.observe({ entryTypes: ['gc'] })
  const stop = meter.onCollect(async () => {
    observeDelay(instruments, delay)
    const now = performance.eventLoopUtilization()
    instruments.eventLoopUtilization.observe({}, performance.eventLoopUtilization(now, before).utilization)
    if (performance.now() - windowSinceMs >= WINDOW_MS_MIN) {
      windowSinceMs = performance.now()
      delay.reset()
      before = now
    }
    for (const space of getHeapSpaceStatistics()) {
      const labels = { 'v8js.heap.space.name': space.space_name }
      instruments.heapUsed.observe(labels, space.space_used_size)
      instruments.heapLimit.observe(labels, space.space_size)
    }
    instruments.memoryUsage.observe({}, process.memoryUsage.rss())
    const cpu = process.cpuUsage()
    instruments.cpuTime.observe({ 'cpu.mode': 'user' }, cpu.user / 1e6)
    instruments.cpuTime.observe({ 'cpu.mode': 'system' }, cpu.system / 1e6)
    instruments.uptime.observe({}, process.uptime())
    if (dataDirectory !== undefined) {
      const { bsize, blocks, bfree, bavail } = await statfs(dataDirectory)
      instruments.diskUsage.observe({}, (blocks - bfree) * bsize)
      instruments.diskLimit.observe({}, (blocks - bfree + bavail) * bsize)
    }
  })
  return () => {
    stop()
    collections.disconnect()
    delay.disable()
  }
}

function observeDelay(
  instruments: ProcessInstruments,
  delay: ReturnType<typeof monitorEventLoopDelay>,
): void {
  // The monitor measures the time between two ticks of the monitor's own timer.
  const seconds = (nanoseconds: number): number =>
    delay.count > 0 && Number.isFinite(nanoseconds) ? Math.max(0, nanoseconds * NS - RESOLUTION_MS / 1000) : 0
  instruments.eventLoopDelayMin.observe({}, seconds(delay.min))
  instruments.eventLoopDelayMax.observe({}, seconds(delay.max))
  instruments.eventLoopDelayMean.observe({}, seconds(delay.mean))
  instruments.eventLoopDelayStddev.observe({}, Number.isFinite(delay.stddev) ? delay.stddev * NS : 0)
  instruments.eventLoopDelayP50.observe({}, seconds(delay.percentile(50)))
  instruments.eventLoopDelayP90.observe({}, seconds(delay.percentile(90)))
  instruments.eventLoopDelayP99.observe({}, seconds(delay.percentile(99)))
}
