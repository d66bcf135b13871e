/** The parts that the steps of a compute's life share. */
import type { Clock, Log, Rng } from '@understory/env'
import type { CheckedSpec } from '@understory/protocol'
import type { ClientContext } from '@understory/rpc'
import type { SqlFront } from '../postgres/configuration.ts'
import type { ConfigurationStore } from '../postgres/configuration-store.ts'
import type { Launcher } from '../postgres/launcher.ts'
import type { ComputeFiles } from '../postgres/layout.ts'
import { PostgresServer } from '../postgres/server.ts'
import type { ComputeObserver } from '../telemetry/compute-observer.ts'
import { Candidates } from './candidates.ts'
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
  readonly configuration: ConfigurationStore
  readonly memory: ComputeMemory
  readonly progress: BeginningProgress
  /** From half of it on commits are slowed. */
  readonly ingestLagLimitBytes: number
  /** Fires when the compute is to stop. */
  readonly signal: AbortSignal
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

export interface ContextParts extends Omit<ComputeContext, 'spec' | 'server' | 'candidates'> {
  readonly spec: () => CheckedSpec
  readonly nodeId: string
  readonly contactTimeoutMs: number
  readonly observer: ComputeObserver | undefined
}

export function makeContext({
  spec,
  nodeId,
  contactTimeoutMs,
  observer,
  ...parts
}: ContextParts): ComputeContext {
  const { memory } = parts
  const { sqlPort: port, term: ownTerm } = memory.state
  const rememberTerm = (term: number): void => memory.remember({ term })
  const { rpc, clock, log } = parts
  const candidateParts = { rpc, nodeId, contactTimeoutMs, observer, clock, log, ownTerm, rememberTerm }
  return {
    ...parts,
    get spec() {
      return spec()
    },
    server: new PostgresServer({ ...parts, port, major: spec().postgresMajor }),
    candidates: new Candidates(candidateParts, spec()),
  }
}
