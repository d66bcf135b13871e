/** What the steps of a compute's life have in common. */
import type { Clock, Log, Rng } from '@understory/env'
import type { CheckedSpec } from '@understory/protocol'
import type { ClientContext } from '@understory/rpc'
import type { SqlFront } from '../postgres/configuration.ts'
import type { ConfigurationKeeper } from '../postgres/kept-configuration.ts'
import type { Launcher } from '../postgres/launcher.ts'
import type { ComputeFiles } from '../postgres/layout.ts'
import type { PostgresServer } from '../postgres/server.ts'
import type { Candidates } from './candidates.ts'
import type { Beginning } from './lifecycle.ts'
import type { ComputeMemory } from './state-file.ts'

export interface BeginningProgress {
  phase(phase: Beginning): void
  /** So much of PGDATA is there. */
  percent(percent: number): void
  /** It waits for something outside. */
  delayed(problem: string): void
}

export interface ComputeContext {
  /** The newest. */
  readonly spec: CheckedSpec
  readonly files: ComputeFiles
  readonly launcher: Launcher
  readonly front: SqlFront
  readonly rpc: ClientContext
  readonly server: PostgresServer
  readonly candidates: Candidates
  readonly configuration: ConfigurationKeeper
  readonly memory: ComputeMemory
  readonly progress: BeginningProgress
  /** Fires when the compute is to stop. */
  readonly signal: AbortSignal
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}
