/**
 * One compute (docs/architecture.md, "Life of a compute"): carries out what lifecycle.ts decides, and shows what it is
 * at. It has one session at most, and is the only writer of its state: an event is taken whole before the next.
 */
import { BugError, assert, present, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock, Log, Rng } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { CheckedSpec } from '@understory/protocol'
import type { ClientContext } from '@understory/rpc'
import type { SqlFront } from '../postgres/configuration.ts'
import { ConfigurationStore } from '../postgres/configuration-store.ts'
import type { Launcher } from '../postgres/launcher.ts'
import type { ComputeFiles } from '../postgres/layout.ts'
import { checkPortIsFree } from '../postgres/sql-port.ts'
import type { SqlTarget } from '../postgres/sql.ts'
import { ComputeObserver } from '../telemetry/compute-observer.ts'
import type { ComputeTelemetry } from '../telemetry/compute-observer.ts'
import type { ComputePhase } from '../telemetry/metrics.ts'
import type { IngestLag } from '../wal-proposer/ingest-lag.ts'
import { adopt, rememberable } from './adopt.ts'
import { bootstrap, needsBootstrap } from './bootstrap.ts'
import { makeContext } from './context.ts'
import type { ComputeContext } from './context.ts'
import { failureFrom } from './failure.ts'
import { INITIAL_LIFECYCLE, decide, isFailureLasting, isRunning, phaseOf } from './lifecycle.ts'
import type { ComputeEnd, Lifecycle, LifecycleEffect, LifecycleEvent } from './lifecycle.ts'
import { rebuild } from './rebuild.ts'
import { dropSession, lossOf, openSession, stopSession } from './session.ts'
import type { Session } from './session.ts'
import { SessionWatch } from './session-watch.ts'
import { ComputeMemory, readState } from './state-file.ts'
import { orStopped } from './stoppable.ts'

export interface ComputeParts {
  readonly spec: CheckedSpec
  readonly files: ComputeFiles
  readonly launcher: Launcher
  readonly front: SqlFront
  readonly nodeId: string
  /** The context for calls to safekeepers and pageservers. */
  readonly rpc: ClientContext
  readonly contactTimeoutMs: number
  readonly ingestLagLimitBytes: number
  /** It gave way to another compute before, and is to run all the same. */
  readonly restartsAfterFencing: boolean
  readonly freePort: () => Promise<number>
  /** Undefined where nothing is measured. */
  readonly telemetry?: ComputeTelemetry | undefined
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

/** The state that the API shows; the compute itself writes it. */
export interface ComputeView {
  readonly state: ComputePhase
  readonly progressPercent: number
  readonly postmasterPid: number
  readonly term: number
  readonly membershipGeneration: number
  readonly receivedLsn: Lsn
  readonly commitLsn: Lsn
  readonly startLsn: Lsn
  readonly postgresStarts: number
  readonly rebuildMs: number
  readonly failure: string
  /** It does not pass by itself. */
  readonly isFailureLasting: boolean
  readonly sqlHost: string
  readonly sqlPort: number
  readonly postgres: PostgresIdentity | undefined
  /** Where this Postgres began to write; undefined since bootstrap, when all pages are its own. */
  readonly rebuiltAtLsn: Lsn | undefined
  /** Storage has a part of a bootstrap that was cut short. */
  readonly isBootstrapInterrupted: boolean
  readonly ingestLag: IngestLag | undefined
}

const LSN_NONE = 0 as Lsn

export class Compute {
  readonly configuration: ConfigurationStore
  readonly #parts: ComputeParts
  readonly #cancel = new AbortController()
  readonly #ended = Promise.withResolvers<ComputeEnd>()
  #spec: CheckedSpec
  #lifecycle: Lifecycle = INITIAL_LIFECYCLE
  /** Since `run` has read what is remembered. */
  #context: ComputeContext | undefined
  #watch: SessionWatch | undefined
  #session: Session | undefined
  /** Of the last session that ran. */
  #last: Pick<Session, 'postgres' | 'startLsn' | 'rebuiltAtLsn'> | undefined
  #progressPercent = 0
  #rebuildMs = 0
  #lostAtMs: number
  readonly #observer: ComputeObserver | undefined

  constructor(parts: ComputeParts) {
    this.#parts = parts
    const { telemetry, spec, clock } = parts
    if (telemetry !== undefined)
      this.#observer = new ComputeObserver(telemetry, spec.timeline, () => this.view())
    this.#spec = spec
    this.configuration = new ConfigurationStore(parts.files)
    this.#lostAtMs = clock.nowMs()
  }

  get files(): ComputeFiles {
    return this.#parts.files
  }
  get telemetry(): ComputeTelemetry | undefined {
    return this.#parts.telemetry
  }

  view(): ComputeView {
    const { postmaster, proposer, receiver } = this.#session ?? {}
    const { problem, isBootstrapInterrupted } = this.#lifecycle.trouble
    return {
      state: phaseOf(this.#lifecycle),
      progressPercent: this.#progressPercent,
      postmasterPid: postmaster?.pid ?? 0,
      term: proposer?.term ?? 0,
      membershipGeneration: this.#context?.candidates.membershipGeneration ?? 0,
      receivedLsn: receiver?.receivedLsn ?? LSN_NONE,
      commitLsn: proposer?.commitLsn ?? LSN_NONE,
      startLsn: this.#last?.startLsn ?? LSN_NONE,
      postgresStarts: this.#context?.server.startsCount ?? 0,
      rebuildMs: this.#rebuildMs,
      failure: problem || (this.#watch?.problem ?? ''),
      isFailureLasting: isFailureLasting(this.#lifecycle),
      sqlHost: this.#parts.front.host,
      sqlPort: this.#context?.server.target.port ?? 0,
      postgres: this.#last?.postgres,
      rebuiltAtLsn: this.#last?.rebuiltAtLsn,
      isBootstrapInterrupted,
      ingestLag: this.#watch?.ingestLag,
    }
  }

  /** Errors: `unavailable` where clients are not let in. */
  sqlTarget(): SqlTarget {
    if (isRunning(this.#lifecycle) && this.#context !== undefined) return this.#context.server.target
    throw fail('unavailable', 'Postgres is not running', {
      hint: 'It is on its way; try again in a moment.',
    })
  }

  /** Resolves once a quorum has the WAL of the running Postgres up to there. */
  async waitForCommit(lsn: Lsn, signal: AbortSignal): Promise<void> {
    if (this.#session === undefined) throw fail('unavailable', 'Postgres was lost')
    await orStopped(this.#session.proposer.waitForCommit(lsn), signal)
  }

  /** The spec of the next life; the running one continues as it is, but for the safekeepers that count. */
  updateSpec(spec: CheckedSpec): void {
    this.#spec = spec
    this.#context?.candidates.updateSpec(spec)
  }

  /** A failure to keep it is logged. */
  async keepConfiguration(): Promise<void> {
    await this.#watch?.keepConfiguration(this.#session?.proposer.term ?? 0)
  }

  /** Asks for a clean stop; `run` ends. */
  requestStop(deadlineMs: number): void {
    this.#feed({ kind: 'stopAsked', deadlineMs })
  }

  /** Lives until it is stopped or fenced. Trouble outside is tried again; a bug ends the process. */
  async run(): Promise<ComputeEnd> {
    const parts = this.#parts
    const memory = await this.#remember()
    await this.configuration.load()
    this.#context = makeContext({
      ...parts,
      memory,
      spec: () => this.#spec,
      configuration: this.configuration,
      observer: this.#observer,
      signal: this.#cancel.signal,
      progress: {
        phase: (phase) => this.#feed({ kind: 'phase', phase }),
        percent: (percent) => {
          this.#progressPercent = percent
          this.#feed({ kind: 'progressed' })
        },
        delayed: (problem) => this.#feed({ kind: 'delayed', problem }),
      },
    })
    this.#watch = new SessionWatch(this.#context)
    this.#lostAtMs = parts.clock.nowMs()
    const { postgres } = memory.state
    const isPostgresLiving = postgres !== undefined && !parts.restartsAfterFencing
    this.#feed({ kind: 'start', isPostgresLiving })
    return this.#ended.promise
  }

  async #remember(): Promise<ComputeMemory> {
    const { files, restartsAfterFencing, freePort } = this.#parts
    const memory = new ComputeMemory(files.state, await readState(files.state))
    const { sqlPort, term } = memory.state
    memory.remember({
      sqlPort: this.#spec.sqlPort || sqlPort || (await freePort()),
      term: restartsAfterFencing ? 0 : term,
    })
    return memory
  }

  #feed(event: LifecycleEvent): void {
    const { state, trouble, effects } = decide(this.#lifecycle, event)
    this.#lifecycle = { state, trouble }
    for (const effect of effects) this.#carryOut(effect)
  }

  #carryOut(effect: LifecycleEffect): void {
    const { log } = this.#parts
    switch (effect.kind) {
      case 'report':
        return log.warn(effect.event, { problem: effect.problem })
      case 'cancel':
        return this.#cancel.abort()
      case 'end':
        return this.#ended.resolve(effect.end)
      case 'adopt':
        return this.#begun(this.#adopt())
      case 'begin':
        return this.#begun(this.#begin(effect.configuration))
      case 'open':
        return this.#begun(this.#open())
      case 'supervise':
        return this.#answered(this.#supervise())
      case 'stop':
        return this.#answered(this.#stop(effect.deadlineMs))
      case 'drop':
        return this.#answered(this.#drop(effect.lead))
      case 'pause':
        return this.#answered(this.#pause(effect.meanMs))
    }
  }

  /** The outcome is fed back. An unexpected failure ends the process. */
  #answered(work: Promise<LifecycleEvent | undefined>): void {
    work
      .then((event) => {
        if (event !== undefined) this.#feed(event)
      })
      .catch(this.#ended.reject)
  }

  #begun(work: Promise<LifecycleEvent>): void {
    const failed = (error: unknown): LifecycleEvent => {
      if (error instanceof BugError) throw error
      return { kind: 'failed', failure: failureFrom(error) }
    }
    this.#answered(work.catch(failed))
  }

  async #adopt(): Promise<LifecycleEvent> {
    const context = present(this.#context, 'a compute that runs')
    const { postgres } = context.memory.state
    assert(postgres !== undefined, () => 'no Postgres is remembered')
    const adoption = await adopt(context, postgres)
    return adoption.kind === 'adopted' ? this.#take(adoption.session) : adoption
  }

  async #begin(configuration: 'newest' | 'lastKnownGood'): Promise<LifecycleEvent> {
    const context = present(this.#context, 'a compute that runs')
    assert(this.#session === undefined, () => 'a session begins where there is one (I2)')
    await checkPortIsFree(this.#parts.front.listenAddresses, context.server.target.port)
    const { problem } = this.#lifecycle.trouble
    const session = (await needsBootstrap(context))
      ? await bootstrap(context)
      : await rebuild(context, { configuration, problem })
    return this.#take(session)
  }

  #take(session: Session): LifecycleEvent {
    this.#session = session
    this.#last = session
    return { kind: 'sessionMade' }
  }

  async #open(): Promise<LifecycleEvent> {
    const session = present(this.#session, 'a session')
    const { clock, log } = this.#parts
    const context = present(this.#context, 'a compute that runs')
    await openSession(context, session)
    context.memory.remember({ postgres: await rememberable(context, session) })
    this.#rebuildMs = Math.round(clock.nowMs() - this.#lostAtMs)
    this.#observer?.opened(session.kind, this.#rebuildMs)
    const { port } = context.server.target
    log.info('open_for_sql', { port, tookMs: this.#rebuildMs, by: session.kind })
    return { kind: 'opened' }
  }

  async #supervise(): Promise<LifecycleEvent> {
    const session = present(this.#session, 'a session')
    this.#watch?.start(session)
    const loss = await lossOf(session, present(this.#context, 'a compute that runs'))
    this.#lostAtMs = this.#parts.clock.nowMs()
    return { kind: 'lost', loss }
  }

  async #stop(deadlineMs: number): Promise<LifecycleEvent> {
    const session = present(this.#session, 'a session')
    // Both may wait for an answer of this Postgres, which may hang, and come back when it was dropped.
    const keep = async () => (this.#session === session ? this.keepConfiguration() : undefined)
    const prepare = async () => this.#watch?.stop().then(keep)
    return { kind: 'stopped', clean: await stopSession(session, deadlineMs, { ...this.#parts, prepare }) }
  }

  async #drop(lead: 'now' | 'saved'): Promise<LifecycleEvent> {
    const context = present(this.#context, 'a compute that runs')
    const session = this.#session
    this.#session = undefined
    // The watch may wait for an answer of this Postgres, which may hang: it is ended first.
    await dropSession(context, session, lead)
    if (context.memory.state.postgres !== undefined) context.memory.remember({ postgres: undefined })
    await this.#watch?.stop()
    return { kind: 'dropped' }
  }

  async #pause(meanMs: number): Promise<LifecycleEvent> {
    const { clock, rng } = this.#parts
    await clock.sleep(meanMs * (0.5 + rng.fraction()), this.#cancel.signal).catch(() => undefined)
    return { kind: 'pauseOver' }
  }
}
