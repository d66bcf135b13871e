/** The known causes why a timeline's compute and shards are not as requested. */
import type { Clock } from '@understory/env'
import { ShardRecovery } from './shard-recovery.ts'

export class TimelineProblems {
  readonly shards: ShardRecovery
  /** The cause that keeps the compute from running, in one line; empty where none is known. */
  compute = ''

  constructor(clock: Clock) {
    this.shards = new ShardRecovery(clock)
  }
}
