/**
 * The seams through which a program reaches the outside. An app extends it with its own typed `workers` and `net`,
 * whose job and message maps only it knows.
 */
import { setFlagsFromString } from 'node:v8'
import { type Clock, realClock } from './clock.ts'
import type { Disk } from './disk.ts'
import { type Log, jsonLog } from './log.ts'
import { realDisk } from './real-disk.ts'
import { type Rng, realRng } from './rng.ts'

export interface Env {
  readonly clock: Clock
  readonly rng: Rng
  readonly disk: Disk
  readonly log: Log
}

/**
 * The real world, for composition roots only. Sets how this process collects garbage, too: V8 begins a full collection
 * whenever 64 MB of buffers have been made since the last, however few are alive, and WAL is nothing but buffers.
 * Counted as part of the heap they cost a third of the CPU less under a write load (bench/commit, V8 13.6).
 */
export function realEnv(log: Log = jsonLog()): Env {
  setFlagsFromString('--external-memory-accounted-in-global-limit')
  return { clock: realClock, rng: realRng, disk: realDisk, log }
}
