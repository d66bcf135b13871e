/**
 * The life of one compute (docs/architecture.md, "Life of a compute"): elect, rebuild PGDATA from storage, run, and
 * again, until it is told to stop or fenced. A new timeline begins with a birth instead: initdb, then the import of a
 * base backup, then it runs on.
 *
 *   electing -> rebuilding -> starting -> running -> (Postgres or the lead lost) -> electing -> …
 *   importing (birth) ---------------------^
 */
import { rm } from 'node:fs/promises'
import { ProblemReport } from '@understory/actor'
import {
  BugError,
  describeError,
  formatLsn,
  isErrorCode,
  offsetInSegment,
  parseLsn,
  present,
  refuse,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock, Log, Rng } from '@understory/env'
import { assemblePgdata, initdbArguments, prepareCheckpoint } from '@understory/pgdata'
import type { AssembledPgdata } from '@understory/pgdata'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { WAL_SEGMENT_BYTES } from '@understory/postgres/wal'
import { initialMembership, readMembership } from '@understory/protocol'
import type { CheckedSpec, KnownMembership } from '@understory/protocol'
import type { ClientContext } from '@understory/rpc'
import {
  PROXY_ROLE,
  STANDBY_NAME,
  firstConfiguration,
  floorsOf,
  postgresArguments,
  readSettings,
  restoredConfiguration,
  seedOf,
  writeGate,
} from '../postgres/configuration.ts'
import type { SettingFloors, SqlFront } from '../postgres/configuration.ts'
import { howFarBirthGot } from './birth.ts'
import { importBaseBackup } from '../import/import.ts'
import { ComputeObserver } from '../telemetry/compute-observer.ts'
import type { ComputePhase, ComputeTelemetry } from '../telemetry/compute-observer.ts'
import { ConfigurationKeeper, hasOtherSoundFiles } from '../postgres/kept-configuration.ts'
import type { KeptConfiguration } from '../postgres/kept-configuration.ts'
import { CLEAN_EXIT } from '../postgres/launcher.ts'
import type { Launcher, Postmaster } from '../postgres/launcher.ts'
import { saveLocalWal } from './local-wal.ts'
import type { ComputeFiles } from '../postgres/layout.ts'
import { allowStart, endPostmaster, endedError, runSingleUser, startPostgres } from '../postgres/postgres.ts'
import type { PostgresParts } from '../postgres/postgres.ts'
import { LeadLostError, isFinal, lossError } from '@understory/consensus/driver'
import type { Election, Loss } from '@understory/consensus/driver'
import { WalProposer } from '../wal-proposer/wal-proposer.ts'
import { createTimeline, walStatuses } from '../wal-proposer/safekeeper-calls.ts'
import { checkPortIsFree } from '../postgres/sql-port.ts'
import { connectReplication } from '../wal-proposer/replication.ts'
import {
  areRulesReadable,
  hasTakenAllIn,
  reloadConfiguration,
  waitForSql,
  waitUntilSynchronous,
  withSql,
} from '../postgres/sql.ts'
import type { SqlTarget } from '../postgres/sql.ts'
import { Standby } from '../wal-proposer/standby.ts'
import { NOTHING_REMEMBERED, readState, writeState } from './state-file.ts'
import type { RememberedState } from './state-file.ts'
import { handled, orStopped } from './stoppable.ts'
import { SubscriptionGuard } from '../postgres/subscriptions.ts'
import { UnloggedIndexes } from '../postgres/unlogged-indexes.ts'

/** Between tries of a life that fails before it runs. */
const RETRY_MIN_MS = 100
const RETRY_MAX_MS = 5_000
/** One may be of an old Postgres that is about to end; so many in a row do not pass by themselves. */
const LASTING_FAILURES = 2
const CONFIGURATION_LOOK_MS = 1_000
/** After which a Postgres that was told to end is killed. */
const POSTGRES_END_MS = 5_000

export interface ComputeParts {
  readonly spec: CheckedSpec
  readonly files: ComputeFiles
  readonly launcher: Launcher
  readonly front: SqlFront
  readonly nodeId: string
  /** What safekeepers and pageservers are called with. */
  readonly rpc: ClientContext
  readonly contactTimeoutMs: number
  /** It gave way to another compute before, and is to run all the same. */
  readonly isWantedAnew: boolean
  readonly freePort: () => Promise<number>
  /** Undefined where nothing is measured. */
  readonly telemetry?: ComputeTelemetry | undefined
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

/** How a compute's process ends. */
export type ComputeEnd =
  | { readonly kind: 'stopped'; readonly clean: boolean }
  | { readonly kind: 'fenced'; readonly term: number }

/** A Postgres that streams through a quorum. */
interface Session {
  readonly postmaster: Postmaster
  readonly quorum: WalProposer
  readonly standby: Standby
  /** The stream's end: normally where Postgres stops cleanly. */
  readonly streaming: Promise<void>
  /** Of the rebuild; none after a birth. */
  readonly emptyInitForks: AssembledPgdata['emptyInitForks']
}

/** What the API tells; the compute itself writes it. */
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
  /** Where this Postgres began to write; undefined since birth, when all pages are its own. */
  readonly rebuiltAtLsn: Lsn | undefined
  /** Storage has a part of a birth that was cut short. */
  readonly isBirthInterrupted: boolean
}

export class Compute {
  readonly files: ComputeFiles
  readonly configuration: ConfigurationKeeper
  #parts: ComputeParts
  readonly #postgres: PostgresParts
  readonly #stop = new AbortController()
  #stopDeadlineMs = 60_000
  #state: ComputePhase = 'electing'
  #progressPercent = 0
  #session: Session | undefined
  #startLsn = 0 as Lsn
  #rebuiltAtLsn: Lsn | undefined
  #postgresStarts = 0
  #rebuildMs = 0
  #failure = ''
  #sqlPort = 0
  #identity: PostgresIdentity | undefined
  #lostAtMs: number
  #isBirthInterrupted = false
  /** In a row. */
  #lastingFailures = 0
  readonly #keepProblems: ProblemReport
  #isConfigurationSuspect = false
  #remembered: RememberedState = NOTHING_REMEMBERED
  /** The highest term that this compute has asked for; undefined before the first. */
  #ownTerm: number | undefined
  /** The candidate, or the leader of the session. */
  #quorum: WalProposer | undefined
  /** As a safekeeper told it, where that is newer than the spec's. */
  #toldMembership: KnownMembership | undefined
  readonly #observer: ComputeObserver | undefined
  readonly #subscriptions: SubscriptionGuard

  constructor(parts: ComputeParts) {
    this.#parts = parts
    const { telemetry, spec, clock, log } = parts
    this.#keepProblems = new ProblemReport({ clock, log, event: 'configuration_not_kept' })
    if (telemetry !== undefined)
      this.#observer = new ComputeObserver(telemetry, spec.timeline, () => this.#state)
    this.files = parts.files
    this.configuration = new ConfigurationKeeper(this.files)
    this.#subscriptions = new SubscriptionGuard(parts.clock, parts.log)
    this.#postgres = {
      files: this.files,
      launcher: parts.launcher,
      clock: parts.clock,
      log: parts.log,
    }
    this.#lostAtMs = parts.clock.nowMs()
  }

  view(): ComputeView {
    const session = this.#session
    return {
      state: this.#state,
      progressPercent: this.#progressPercent,
      postmasterPid: session?.postmaster.pid ?? 0,
      term: session?.quorum.term ?? 0,
      membershipGeneration: this.#quorum?.membershipGeneration ?? this.#newestMembership().generation,
      receivedLsn: session?.standby.receivedLsn ?? (0 as Lsn),
      commitLsn: session?.quorum.commitLsn ?? (0 as Lsn),
      startLsn: this.#startLsn,
      postgresStarts: this.#postgresStarts,
      rebuildMs: this.#rebuildMs,
      failure: this.#failure || this.#subscriptions.problem,
      isFailureLasting: this.#failure !== '' && this.#lastingFailures >= LASTING_FAILURES,
      sqlHost: this.#parts.front.host,
      sqlPort: this.#sqlPort,
      postgres: this.#identity,
      rebuiltAtLsn: this.#rebuiltAtLsn,
      isBirthInterrupted: this.#isBirthInterrupted,
    }
  }

  get telemetry(): ComputeTelemetry | undefined {
    return this.#parts.telemetry
  }

  sqlTarget(): SqlTarget {
    if (this.#state !== 'running') {
      throw refuse('unavailable', 'Postgres is not running', {
        hint: 'It is on its way; try again in a moment.',
      })
    }
    return this.#target()
  }
  /** Resolves once a quorum has the WAL of the running Postgres up to there. */
  async waitForCommit(lsn: Lsn, signal: AbortSignal): Promise<void> {
    if (this.#session === undefined) throw refuse('unavailable', 'Postgres was lost')
    await orStopped(this.#session.quorum.waitForCommit(lsn), signal)
  }
  #target(): SqlTarget {
    return { files: this.files, port: this.#sqlPort, major: this.#parts.spec.postgresMajor }
  }

  /** What the next life is to be; the running one goes on as it is, but for the safekeepers that count. */
  updateSpec(spec: CheckedSpec): void {
    this.#parts = { ...this.#parts, spec }
    this.#quorum?.changeMembership(this.#newestMembership())
  }

  #newestMembership(): KnownMembership {
    const { membership, safekeepers } = this.#parts.spec
    const wanted = membership === undefined ? initialMembership(safekeepers) : readMembership(membership)
    const told = this.#toldMembership
    return told !== undefined && told.generation > wanted.generation ? told : wanted
  }

  /** Asks for a clean stop; `run` ends. */
  requestStop(deadlineMs: number): void {
    this.#stopDeadlineMs = deadlineMs
    this.#stop.abort()
  }

  /** Lives until it is stopped or fenced. Trouble outside is tried again; a bug ends the process. */
  async run(): Promise<ComputeEnd> {
    const { log, clock, rng, spec } = this.#parts
    let failures = 0
    await this.#parts.launcher.endOld(this.files)
    await rm(this.files.startToken, { force: true })
    await this.configuration.load()
    this.#remembered = await readState(this.files.state)
    this.#sqlPort = spec.sqlPort || this.#remembered.sqlPort || (await this.#parts.freePort())
    const term = this.#parts.isWantedAnew ? 0 : this.#remembered.term
    this.#remember({ sqlPort: this.#sqlPort, term })
    this.#ownTerm = term === 0 ? undefined : term
    while (!this.#stop.signal.aborted) {
      try {
        const session = await this.#begin()
        failures = 0
        const end = await this.#live(session)
        if (end !== undefined) return end
      } catch (error) {
        if (error instanceof BugError) throw error
        if (this.#stop.signal.aborted) break
        await this.#dropSession(error instanceof LeadLostError ? 'now' : 'saved')
        const problem = describeError(error)
        if (problem !== this.#failure) log.warn('compute_failed', { problem })
        this.#failure = problem
        // What was cut short is begun again by the control plane.
        const isLasting = isErrorCode(error, 'precondition') && !this.#isBirthInterrupted
        this.#lastingFailures = isLasting ? this.#lastingFailures + 1 : 0
        if (error instanceof LeadLostError && isFinal(error.loss)) return this.#endOfLoss(error.loss)
        // Chance keeps two candidates from overtaking each other for ever; time keeps a hopeless one from burning CPU.
        failures++
        const pauseMs = Math.min(RETRY_MIN_MS * 2 ** failures, RETRY_MAX_MS) * (0.5 + rng.fraction())
        await clock.sleep(pauseMs, this.#stop.signal).catch(() => undefined)
      }
    }
    await this.#dropSession('now')
    this.#state = 'stopped'
    return { kind: 'stopped', clean: false }
  }

  #remember(change: Partial<RememberedState>): void {
    this.#remembered = { ...this.#remembered, ...change }
    writeState(this.files.state, this.#remembered)
  }

  async #begin(): Promise<Session> {
    await checkPortIsFree(this.#parts.front.listenAddresses, this.#sqlPort)
    const session = (await this.#needsBirth()) ? await this.#bear() : await this.#rebuild()
    this.#session = session
    await this.#open(session)
    this.#isConfigurationSuspect = false
    this.#failure = ''
    this.#lastingFailures = 0
    return session
  }

  /** Lets clients in, once commits wait for the quorum and the indexes of unlogged tables are fit for use. */
  async #open({ postmaster, quorum, streaming, emptyInitForks }: Session): Promise<void> {
    const { clock, log } = this.#parts
    const target = this.#target()
    const unloggedIndexes = new UnloggedIndexes(target, clock, log)
    // Without its stream or its quorum this Postgres has no synchronous standby, however long one waits.
    const ready = Promise.race([
      waitUntilSynchronous(target, clock).then(() => unloggedIndexes.rebuild(emptyInitForks)),
      postmaster.exited.then(async (how) => {
        throw await endedError(this.files, how)
      }),
      streaming.then(() => {
        throw refuse('unavailable', 'the WAL stream ended before Postgres was open')
      }),
      quorum.lost.then((loss) => {
        throw lossError(loss)
      }),
    ])
    await orStopped(ready, this.#stop.signal)
    writeGate(this.files, 'open', this.#parts)
    await withSql(target, async (client) => {
      const rules = this.configuration.kept?.soundFiles.get('pg_hba.conf')
      if (rules !== undefined && !(await areRulesReadable(client))) {
        log.warn('rules_rejected', {})
        // They let nobody in: those of the user that could be read last take their place.
        await this.#parts.launcher.install(this.files, new Map([['pg_hba.conf', rules]]))
      }
      await client.query('select pg_reload_conf()')
    })
    await reloadConfiguration(target, clock)
    this.#rebuildMs = Math.round(clock.nowMs() - this.#lostAtMs)
    this.#state = 'running'
    this.#observer?.opened(this.#rebuiltAtLsn === undefined ? 'birth' : 'rebuild', this.#rebuildMs)
    log.info('open_for_sql', { port: this.#sqlPort, tookMs: this.#rebuildMs })
  }

  /** Until the session ends: undefined to begin again, or how the compute ended. */
  async #live(session: Session): Promise<ComputeEnd | undefined> {
    const { clock, log } = this.#parts
    const watching = new AbortController()
    const watch = this.#watch(watching.signal)
    const stopAsked = Promise.withResolvers<'stop'>()
    const onStop = (): void => stopAsked.resolve('stop')
    if (this.#stop.signal.aborted) onStop()
    this.#stop.signal.addEventListener('abort', onStop, { once: true })
    const what = await Promise.race([
      stopAsked.promise,
      session.postmaster.exited,
      session.quorum.lost,
      session.streaming.then(
        () => 'lost its WAL stream',
        (error: unknown) => `lost its WAL stream: ${describeError(error)}`,
      ),
    ])
    watching.abort()
    if (what === 'stop') {
      await watch
      return this.#stopCleanly(session)
    }
    // What looks on may wait for an answer of this Postgres, which may hang: it is ended first.
    this.#lostAtMs = clock.nowMs()
    if (typeof what === 'string') {
      this.#failure = describeError(await endedError(this.files, what))
      log.warn('postgres_lost', { problem: this.#failure })
      await this.#dropSession('saved')
      await watch
      return undefined
    }
    this.#failure = describeError(lossError(what))
    await this.#dropSession('now')
    await watch
    // Without contact it tries again: an election that a majority answers decides.
    return isFinal(what) ? this.#endOfLoss(what) : undefined
  }

  #endOfLoss(loss: Loss): ComputeEnd {
    this.#state = 'stopped'
    return { kind: 'fenced', term: 'term' in loss ? loss.term : 0 }
  }

  /** A fast shutdown ends when the standby has confirmed the shutdown checkpoint; without a quorum it never would. */
  async #stopCleanly(session: Session): Promise<ComputeEnd> {
    const { clock, log } = this.#parts
    this.#state = 'stopping'
    await this.keepConfiguration()
    const late = Promise.withResolvers<'late'>()
    const timer = clock.setTimer(this.#stopDeadlineMs, () => late.resolve('late'))
    const over = Promise.race([session.quorum.lost.then(() => 'late' as const), late.promise])
    // A shutdown ends waits for the quorum, and an apply worker then confirms what no quorum has: not without one.
    const isQuorumThere = await Promise.race([
      session.standby.committed().then(
        () => true,
        () => false,
      ),
      over.then(() => false),
    ])
    session.postmaster.signal(isQuorumThere ? 'SIGINT' : 'SIGQUIT')
    const how = await Promise.race([session.postmaster.exited, over])
    // Postgres ends the stream once everything is confirmed, so the quorum has the checkpoint by then. One that is late
    // holds its stream open for as long as it hangs: it is not waited for.
    await Promise.race([session.streaming.catch(() => undefined), over])
    timer.cancel()
    const clean = how === CLEAN_EXIT && session.quorum.commitLsn >= session.standby.receivedLsn
    log.info('postgres_stopped', {
      clean,
      how,
      commitLsn: formatLsn(session.quorum.commitLsn),
      receivedLsn: formatLsn(session.standby.receivedLsn),
    })
    await this.#dropSession('now')
    this.#state = 'stopped'
    return { kind: 'stopped', clean }
  }

  /**
   * Ends Postgres at once and gives up the lead: `saved` once the quorum has what is on the local disk alone. PGDATA is not
   * fit for a start after this: it has no token.
   */
  async #dropSession(lead: 'now' | 'saved'): Promise<void> {
    const session = this.#session
    this.#session = undefined
    if (session !== undefined) {
      await endPostmaster(session.postmaster, this.#parts.clock)
      if (lead === 'now') session.quorum.close()
    }
    await this.#parts.launcher.endOld(this.files)
    if (session !== undefined && lead === 'saved') {
      const { log } = this.#parts
      const postgres = present(this.#identity, 'identity of the Postgres that ran')
      const { pgdata } = this.files
      await saveLocalWal({ ...session, pgdata, postgres, signal: this.#stop.signal, log })
      session.quorum.close()
    }
    await rm(this.files.startToken, { force: true })
  }

  async #watch(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.keepConfiguration()
      await this.#parts.launcher.boundLog(this.files)
      await this.#guardSubscriptions()
      await this.#parts.clock.sleep(CONFIGURATION_LOOK_MS, signal).catch(() => undefined)
    }
  }

  async #guardSubscriptions(): Promise<void> {
    const session = this.#session
    if (session === undefined) return
    const { catalogLsn } = session.standby
    await this.#subscriptions.look(this.#target(), { catalogLsn, commitLsn: session.quorum.commitLsn })
  }

  /** What cannot be kept is logged: the server goes on all the same. */
  async keepConfiguration(): Promise<void> {
    try {
      const isSound = (): Promise<boolean> => hasTakenAllIn(this.#target())
      await this.configuration.keep(this.#session?.quorum.term ?? 0, isSound)
      this.#keepProblems.clear()
    } catch (error) {
      this.#keepProblems.report(error)
    }
  }

  /**
   * What storage has decides, because a birth can be cut short anywhere. Error: refused `precondition` where it has a
   * part: another initdb is another system, whose WAL and pages do not go with what is there. The control plane begins
   * the timeline anew; nothing is lost by that, because clients are let in only after a whole birth.
   */
  async #needsBirth(): Promise<boolean> {
    const { rpc, spec } = this.#parts
    if (this.#remembered.born || !spec.bootstrap) return false
    const known = await walStatuses(rpc, spec, this.#stop.signal)
    const got = known.length === 0 ? 'nowhere' : await howFarBirthGot(rpc, spec, this.#stop.signal)
    this.#isBirthInterrupted = got === 'half-way'
    if (got === 'half-way') {
      throw refuse('precondition', 'the birth of this timeline was cut short', {
        hint: 'The control plane begins it anew by itself.',
      })
    }
    return got === 'nowhere'
  }

  #candidate(postgres: PostgresIdentity, timelineStartLsn: Lsn): WalProposer {
    const { rpc, spec, nodeId, contactTimeoutMs, clock, log } = this.#parts
    const quorum = new WalProposer({
      rpc,
      timeline: spec.timeline,
      postgres,
      membership: this.#newestMembership(),
      nodeId,
      timelineStartLsn,
      livingTerm: undefined,
      ownTerm: this.#ownTerm,
      rememberTerm: (term) => {
        this.#ownTerm = term
        this.#remember({ term })
      },
      contactTimeoutMs,
      observer: this.#observer,
      clock,
      log,
    })
    this.#quorum = quorum
    void quorum.lost.then((loss) => {
      if (loss.kind === 'staleMembership') this.#toldMembership = loss.membership ?? this.#toldMembership
      if (this.#quorum === quorum) this.#quorum = undefined
    })
    return quorum
  }

  async #rebuild(): Promise<Session> {
    const { rpc, spec, launcher, log } = this.#parts
    this.#state = 'electing'
    this.#progressPercent = 0
    await this.#parts.launcher.endOld(this.files)
    await this.#knownConfiguration()
    const [status] = await walStatuses(rpc, spec, this.#stop.signal)
    if (status === undefined) throw refuse('unavailable', 'no safekeeper knows the timeline yet')
    const { postgres } = status
    this.#identity = postgres
    const quorum = this.#candidate(postgres, status.timelineStartLsn)
    try {
      const { startLsn: atLsn }: Election = await orStopped(quorum.elected, this.#stop.signal)
      await quorum.waitForCommit(atLsn)
      this.#state = 'rebuilding'
      const source = {
        rpc,
        timeline: spec.timeline,
        postgres,
        pageservers: spec.pageservers,
        stripeBlocks: spec.stripeBlocks,
        safekeepers: spec.safekeepers,
        lsn: atLsn,
        signal: this.#stop.signal,
      }
      const prepared = await prepareCheckpoint(source)
      const { bytes, nextLsn, recordLsn } = prepared.forged
      if (bytes.length > 0) {
        await quorum.push(atLsn, bytes, nextLsn)
        await quorum.waitForCommit(nextLsn)
      }
      await launcher.emptyPgdata(this.files)
      const assembled = await assemblePgdata({
        ...source,
        directory: this.files.pgdata,
        checkpoint: { kind: 'inWal', prepared },
        ...launcher.access,
        onProgress: (done, total) => {
          this.#progressPercent = total === 0 ? 0 : Math.floor((100 * done) / total)
          this.#failure = ''
        },
        onResume: (shard, error) => {
          const problem = describeError(error)
          if (problem !== this.#failure)
            log.warn('files_resumed', { shard, problem, progressPercent: this.#progressPercent })
          this.#failure = problem
        },
      })
      log.info('pgdata_rebuilt', {
        lsn: formatLsn(atLsn),
        files: assembled.files,
        bytes: assembled.bytes,
        resumes: assembled.resumes,
        tookMs: assembled.tookMs,
      })
      const kept = await this.#configurationForStart()
      const fullPageWrites = spec.fullPageWritesOff ? 'off' : 'on'
      const configuration = restoredConfiguration(kept, { ...seedOf(this.#parts), fullPageWrites })
      await launcher.install(this.files, configuration)
      return await this.#startRebuilt(quorum, postgres, nextLsn, recordLsn, assembled)
    } catch (error) {
      quorum.close()
      throw error
    }
  }

  /** Undefined where the timeline is as it began: nobody was let in yet. A host may have got a newer one meanwhile. */
  async #knownConfiguration(): Promise<KeptConfiguration | undefined> {
    const kept = await this.configuration.load()
    if (kept !== undefined || this.#parts.spec.bootstrap) return kept
    // To guess who may connect would let in whom the user has shut out.
    throw refuse('unavailable', 'the configuration of this timeline is not known here', {
      hint: 'The control plane tells it; see that it runs.',
    })
  }

  /** The newest, unless Postgres did not start on it and an older one is known on which it did. */
  async #configurationForStart(): Promise<KeptConfiguration | undefined> {
    const kept = await this.#knownConfiguration()
    if (!this.#isConfigurationSuspect || kept === undefined || !hasOtherSoundFiles(kept)) return kept
    this.#parts.log.warn('configuration_rejected', { problem: this.#failure })
    return { ...kept, files: kept.soundFiles }
  }

  async #startRebuilt(
    quorum: WalProposer,
    postgres: PostgresIdentity,
    nextLsn: Lsn,
    prevLsn: Lsn,
    { state, emptyInitForks }: AssembledPgdata,
  ): Promise<Session> {
    const floors = floorsOf(state)
    this.#state = 'starting'
    writeGate(this.files, 'closed', this.#parts)
    await allowStart(this.files)
    let postmaster = await this.#startPostgres(floors)
    const target = this.#target()
    try {
      if (!(await waitForSql(target, this.#parts.clock, postmaster.exited)))
        postmaster = await this.#remakeRole(postmaster, floors)
      const replication = await connectReplication(target)
      await replication.createPhysicalSlot(STANDBY_NAME)
      const stream = await replication.startReplication({
        slot: STANDBY_NAME,
        startLsn: nextLsn,
        timelineId: postgres.pgTimelineId,
      })
      const standby = new Standby(
        stream,
        quorum,
        nextLsn,
        prevLsn,
        postgres.walSegmentBytes,
        this.#parts.clock,
      )
      this.#startLsn = nextLsn
      this.#rebuiltAtLsn = nextLsn
      return { postmaster, quorum, standby, streaming: handled(standby.run()), emptyInitForks }
    } catch (error) {
      // One that ended by itself may have stumbled on its configuration.
      const isRunning = this.#parts.clock.sleep(0).then(() => true)
      this.#isConfigurationSuspect = !(await Promise.race([postmaster.exited.then(() => false), isRunning]))
      await endPostmaster(postmaster, this.#parts.clock)
      throw refuse(
        'unavailable',
        `Postgres did not start on the rebuilt data directory: ${describeError(error)}`,
        { cause: error },
      )
    }
  }

  async #startPostgres(floors?: SettingFloors): Promise<Postmaster> {
    const postmaster = await startPostgres(this.#postgres, await this.#arguments(floors))
    this.#postgresStarts++
    return postmaster
  }

  async #arguments(floors?: SettingFloors): Promise<string[]> {
    const { spec, front } = this.#parts
    const { listenAddresses } = front
    const where = { port: this.#sqlPort, listenAddresses, isSuspect: this.#isConfigurationSuspect }
    return postgresArguments(this.files, where, spec.postgresMajor, await readSettings(this.files), floors)
  }

  /**
   * A user may have dropped the proxy's role, or taken its rights. A server that nobody serves (single-user mode) asks
   * for no role. These files are still fit for a start: nobody was let in, and each stop here is a clean one, whose WAL
   * goes to the quorum with what follows.
   */
  async #remakeRole(postmaster: Postmaster, floors: SettingFloors): Promise<Postmaster> {
    const { log, clock } = this.#parts
    log.warn('proxy_role_lost', { role: PROXY_ROLE })
    postmaster.signal('SIGINT')
    const timer = clock.setTimer(POSTGRES_END_MS, () => postmaster.signal('SIGKILL'))
    const how = await postmaster.exited
    timer.cancel()
    if (how !== CLEAN_EXIT) throw await endedError(this.files, how)
    const statements = [
      `create role ${PROXY_ROLE}`,
      `alter role ${PROXY_ROLE} superuser replication login connection limit -1`,
    ]
    await allowStart(this.files)
    await runSingleUser(this.#postgres, await this.#arguments(floors), statements)
    await allowStart(this.files)
    const again = await this.#startPostgres(floors)
    if (await waitForSql(this.#target(), clock, again.exited)) return again
    await endPostmaster(again, clock)
    throw refuse('precondition', `role "${PROXY_ROLE}" could not be made again`)
  }

  /** Birth: initdb, a first start, and the import of a base backup, while the WAL already goes through the quorum. */
  async #bear(): Promise<Session> {
    const { rpc, spec, launcher, clock, log } = this.#parts
    this.#state = 'importing'
    log.info('birth', { major: spec.postgresMajor })
    await launcher.initdb(this.files, initdbArguments(spec.postgresMajor))
    await launcher.install(this.files, await firstConfiguration(this.files, seedOf(this.#parts)))
    writeGate(this.files, 'birth', this.#parts)
    await allowStart(this.files)
    const postmaster = await this.#startPostgres()
    const target = this.#target()
    let quorum: WalProposer | undefined
    try {
      await waitForSql(target, clock, postmaster.exited, 'postgres').catch((cause: unknown) => {
        // Its files are new: what keeps it from starting is what it was given, or the machine.
        throw refuse('precondition', `Postgres does not start: ${describeError(cause).replace(/\.$/, '')}`, {
          hint: 'Correct that; or remove the tenant and create it with other settings.',
          cause,
        })
      })
      await withSql(
        target,
        async (client) => {
          await client.query(`create role ${STANDBY_NAME} superuser replication login`)
        },
        { user: 'postgres' },
      )
      const replication = await connectReplication(target)
      const { systemId, timelineId } = await replication.identifySystem()
      await replication.createPhysicalSlot(STANDBY_NAME)
      const { restartLsn } = present(
        await replication.readSlot(STANDBY_NAME),
        'the slot that was made a moment ago',
      )
      const startLsn = (restartLsn - offsetInSegment(restartLsn, WAL_SEGMENT_BYTES)) as Lsn
      const postgres: PostgresIdentity = {
        major: spec.postgresMajor,
        systemId,
        pgTimelineId: timelineId,
        walSegmentBytes: WAL_SEGMENT_BYTES,
      }
      await createTimeline(rpc, spec, postgres, startLsn, this.#stop.signal)
      quorum = this.#candidate(postgres, startLsn)
      await orStopped(quorum.elected, this.#stop.signal)
      const stream = await replication.startReplication({ slot: STANDBY_NAME, startLsn, timelineId })
      const standby = new Standby(stream, quorum, startLsn, undefined, WAL_SEGMENT_BYTES, clock)
      const streaming = handled(standby.run())
      await Promise.race([
        this.#import(target, quorum),
        postmaster.exited.then(async (how) => {
          throw await endedError(this.files, how)
        }),
        streaming.then(() => {
          throw refuse('unavailable', 'the WAL stream ended during the import')
        }),
        quorum.lost.then((loss) => {
          throw lossError(loss)
        }),
      ])
      this.#identity = postgres
      this.#startLsn = startLsn
      this.#rebuiltAtLsn = undefined
      await this.configuration.keep(quorum.term, () => hasTakenAllIn(target))
      this.#remember({ born: true })
      return { postmaster, quorum, standby, streaming, emptyInitForks: [] }
    } catch (error) {
      quorum?.close()
      await endPostmaster(postmaster, this.#parts.clock)
      throw error
    }
  }

  async #import(target: SqlTarget, quorum: WalProposer): Promise<void> {
    const { spec } = this.#parts
    const replication = await connectReplication(target)
    try {
      const imported = await importBaseBackup({
        rpc: this.#parts.rpc,
        backup: replication.baseBackup('understory import'),
        major: spec.postgresMajor,
        layout: { count: spec.pageservers.length, stripeBlocks: spec.stripeBlocks },
        pageservers: spec.pageservers,
        timeline: spec.timeline,
        signal: this.#stop.signal,
      })
      const [{ lsn } = { lsn: '0/0' }] = await withSql(
        target,
        async (client) =>
          (await client.query<{ lsn: string }>('select pg_current_wal_flush_lsn() as lsn')).rows,
      )
      this.#parts.log.info('base_backup_imported', {
        startLsn: formatLsn(imported.startLsn),
        endLsn: formatLsn(imported.endLsn),
        flushLsn: lsn,
      })
      await quorum.waitForCommit(imported.endLsn > parseLsn(lsn) ? parseLsn(lsn) : imported.endLsn)
      await imported.finish()
    } finally {
      replication.close()
    }
  }
}
