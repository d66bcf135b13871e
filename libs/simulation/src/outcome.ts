/** One schedule from its seed: what it did, and what went wrong; and the least part of a bad one that still is. */
import { seededRng } from '@understory/env'
import type { MakeNode } from './acceptor-node.ts'
import type { WalFormat } from './wal.ts'
import { World } from './world.ts'

/** The simulated code: the state machines over toys, or an app's own code. */
export interface Subject {
  readonly name: string
  readonly makeNode: MakeNode
  readonly format: WalFormat
  readonly recordBytesMax: number
  readonly faultsMs: number
}

export interface ReplayOptions {
  readonly only?: readonly number[] | undefined
  readonly isFairWeather?: boolean
  readonly onTrace?: (line: string) => void
}

export interface Outcome {
  readonly seed: number
  readonly failure: string | undefined
  readonly eventsCount: number
  readonly virtualMs: number
  readonly plannedCount: number
  readonly faults: ReadonlyMap<string, number>
  readonly transitions: ReadonlyMap<string, number>
  readonly others: ReadonlyMap<string, number>
}

export async function runSchedule(
  { makeNode, format, recordBytesMax, faultsMs }: Subject,
  seed: number,
  { only, isFairWeather = false, onTrace }: ReplayOptions = {},
): Promise<Outcome> {
  // Some schedules are short and some long, independent of the rest of their seed.
  const length = 0.6 + seededRng(seed * 4 + 2).below(100) / 100
  const world = new World({
    seed,
    makeNode,
    format,
    recordBytesMax,
    faultsMs: Math.round(faultsMs * length),
    only,
    isFairWeather,
    onTrace,
  })
  let failure: string | undefined
  try {
    await world.run()
  } catch (error) {
    failure = error instanceof Error ? error.message : String(error)
    onTrace?.(`failed: ${error instanceof Error ? error.stack : failure}`)
  }
  const { counts, schedule, planned } = world
  return {
    seed,
    failure,
    eventsCount: schedule.eventsCount,
    virtualMs: schedule.nowMs,
    plannedCount: planned.length,
    faults: counts.faults,
    transitions: counts.transitions,
    others: counts.others,
  }
}

export interface Shrunk {
  readonly only: readonly number[]
  readonly isFairWeather: boolean
  readonly failure: string
}

/** Leaves out faults, many at a time and then one by one, while the schedule still fails. */
export async function shrink(subject: Subject, seed: number, failure: string): Promise<Shrunk> {
  let found: Shrunk = { only: Array.from({ length: 40 }, (_, index) => index), isFairWeather: false, failure }
  const attempt = async (only: readonly number[], isFairWeather: boolean): Promise<boolean> => {
    const outcome = await runSchedule(subject, seed, { only, isFairWeather })
    if (outcome.failure === undefined) return false
    found = { only, isFairWeather, failure: outcome.failure }
    return true
  }
  await attempt(found.only, true)
  for (let size = 20; size >= 1; size = Math.floor(size / 2)) {
    for (let at = 0; at < found.only.length;) {
      const rest = found.only.filter((_, index) => index < at || index >= at + size)
      if (!(await attempt(rest, found.isFairWeather))) at += size
    }
  }
  const planned = new Set(found.only)
  return { ...found, only: [...planned] }
}
