/**
 * What a program gets from outside. An app extends it with its own typed `workers` and `net`, whose job and message
 * maps only it knows.
 */
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

/** The real world, for composition roots only. */
export function realEnv(log: Log = jsonLog()): Env {
  return { clock: realClock, rng: realRng, disk: realDisk, log }
}
