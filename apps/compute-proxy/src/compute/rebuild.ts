/** A session from storage: an election, the checkpoint that Postgres starts from, PGDATA as of there, and a start. */
import { describeError, formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { assemblePgdata, prepareCheckpoint } from '@understory/pgdata'
import type { AssembledPgdata } from '@understory/pgdata'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import {
  STANDBY_NAME,
  floorsOf,
  restoredConfiguration,
  seedOf,
  writeGate,
} from '../postgres/configuration.ts'
import type { WalStatus } from '@understory/protocol/clients'
import { hasOtherSoundFiles } from '../postgres/configuration-store.ts'
import type { ConfigurationSnapshot } from '../postgres/configuration-store.ts'
import { endPostmaster } from '../postgres/postgres.ts'
import { repairProxyRole } from '../postgres/role-repair.ts'
import { waitForSql } from '../postgres/sql.ts'
import { connectReplication } from '../wal-proposer/replication.ts'
import { walStatuses } from '../wal-proposer/safekeeper-calls.ts'
import type { WalProposer } from '../wal-proposer/wal-proposer.ts'
import { WalReceiver } from '../wal-proposer/wal-receiver.ts'
import type { ComputeContext } from './context.ts'
import { PostgresNotStartedError } from './failure.ts'
import type { Session } from './session.ts'
import { handled, orStopped } from './stoppable.ts'

export interface RebuildOptions {
  /**
   * Which files Postgres starts with: those of when a server last ran with all of them, where it did not start on the
   * newest.
   */
  readonly configuration: 'newest' | 'lastKnownGood'
  /** Of the last try. */
  readonly problem: string
}

/** The caller ends what is there already. Nothing is left of it where it fails. */
export async function rebuild(context: ComputeContext, options: RebuildOptions): Promise<Session> {
  const { rpc, spec, candidates, signal, progress } = context
  progress.phase('electing')
  progress.percent(0)
  await knownConfiguration(context)
  const [status] = await walStatuses(rpc, spec, signal)
  if (status === undefined) throw fail('unavailable', 'no safekeeper knows the timeline yet')
  const proposer = candidates.stand(status.postgres, status.timelineStartLsn)
  try {
    return await rebuildAsLeader(context, proposer, status, options)
  } catch (error) {
    proposer.close()
    throw error
  }
}

/** PGDATA as of an LSN, where Postgres begins to write. */
interface Assembled extends AssembledPgdata {
  readonly startLsn: Lsn
  /** Start of the record that ends there. */
  readonly prevLsn: Lsn
}

async function rebuildAsLeader(
  context: ComputeContext,
  proposer: WalProposer,
  { postgres, timelineStartLsn }: Pick<WalStatus, 'postgres' | 'timelineStartLsn'>,
  options: RebuildOptions,
): Promise<Session> {
  const { spec, launcher, files, signal, progress } = context
  const { startLsn: atLsn } = await orStopped(proposer.elected, signal)
  await proposer.waitForCommit(atLsn)
  progress.phase('rebuilding')
  const assembled = await assemble(context, proposer, postgres, atLsn)
  const kept = await configurationForStart(context, options)
  const fullPageWrites = spec.fullPageWritesOff ? 'off' : 'on'
  await launcher.install(files, restoredConfiguration(kept, { ...seedOf(context), fullPageWrites }))
  progress.phase('starting')
  const started = await startOnAssembled(context, proposer, postgres, assembled, options)
  return { ...started, timelineStartLsn }
}

async function assemble(
  { rpc, spec, launcher, files, signal, progress, log }: ComputeContext,
  proposer: WalProposer,
  postgres: PostgresIdentity,
  atLsn: Lsn,
): Promise<Assembled> {
  const { timeline, pageservers, stripeBlocks, safekeepers } = spec
  const source = { rpc, timeline, postgres, pageservers, stripeBlocks, safekeepers, lsn: atLsn, signal }
  const prepared = await prepareCheckpoint(source)
  const { bytes, nextLsn, recordLsn } = prepared.forged
  if (bytes.length > 0) {
    await proposer.push(atLsn, bytes, nextLsn)
    await proposer.waitForCommit(nextLsn)
  }
  await launcher.emptyPgdata(files)
  let percentDone = 0
  let lastProblem = ''
  const assembled = await assemblePgdata({
    ...source,
    directory: files.pgdata,
    checkpoint: { kind: 'inWal', prepared },
    ...launcher.access,
    onProgress: (done, total) => {
      percentDone = total === 0 ? 0 : Math.floor((100 * done) / total)
      lastProblem = ''
      progress.percent(percentDone)
    },
    onResume: (shard, error) => {
      const problem = describeError(error)
      if (problem !== lastProblem) log.warn('files_resumed', { shard, problem, progressPercent: percentDone })
      lastProblem = problem
      progress.delayed(problem)
    },
  })
  log.info('pgdata_rebuilt', {
    lsn: formatLsn(atLsn),
    files: assembled.files,
    bytes: assembled.bytes,
    resumes: assembled.resumes,
    tookMs: assembled.tookMs,
  })
  return { ...assembled, startLsn: nextLsn, prevLsn: recordLsn }
}

/** Undefined where the timeline is as it began: no client was let in yet. A host may have got a newer one by now. */
async function knownConfiguration({
  configuration,
  spec,
}: ComputeContext): Promise<ConfigurationSnapshot | undefined> {
  const kept = await configuration.load()
  if (kept !== undefined || spec.bootstrap) return kept
  // To guess who may connect would let in whom the user has shut out.
  throw fail('unavailable', 'the configuration of this timeline is not known here', {
    hint: 'The control plane sends it; see that it runs.',
  })
}

/** The newest, unless Postgres did not start on it and an older one is known on which it did. */
async function configurationForStart(
  context: ComputeContext,
  { configuration, problem }: RebuildOptions,
): Promise<ConfigurationSnapshot | undefined> {
  const kept = await knownConfiguration(context)
  if (configuration === 'newest' || kept === undefined || !hasOtherSoundFiles(kept)) return kept
  context.log.warn('configuration_rejected', { problem })
  return { ...kept, files: kept.soundFiles }
}

async function startOnAssembled(
  context: ComputeContext,
  proposer: WalProposer,
  postgres: PostgresIdentity,
  { state, emptyInitForks, startLsn, prevLsn }: Assembled,
  { configuration }: RebuildOptions,
): Promise<Omit<Session, 'timelineStartLsn'>> {
  const { server, files, clock } = context
  const start = { floors: floorsOf(state), isSuspect: configuration === 'lastKnownGood' }
  writeGate(files, 'closed', context)
  let postmaster = await server.start(start)
  try {
    if (!(await waitForSql(server.target, clock, postmaster.exited)))
      postmaster = await repairProxyRole(context, postmaster, start)
    const replication = await connectReplication(server.target)
    await replication.createPhysicalSlot(STANDBY_NAME)
    const stream = await replication.startReplication({
      slot: STANDBY_NAME,
      startLsn,
      timelineId: postgres.pgTimelineId,
    })
    const receiver = new WalReceiver(stream, proposer, startLsn, prevLsn, postgres.walSegmentBytes, clock)
    const streaming = handled(receiver.run())
    const positions = { startLsn, rebuiltAtLsn: startLsn }
    return {
      kind: 'rebuild',
      postgres,
      postmaster,
      proposer,
      receiver,
      streaming,
      ...positions,
      emptyInitForks,
    }
  } catch (error) {
    // A Postgres that ended by itself may have stumbled on its configuration.
    const hasEndedByItself = !postmaster.isRunning()
    await endPostmaster(postmaster, clock)
    throw new PostgresNotStartedError(hasEndedByItself, error)
  }
}
