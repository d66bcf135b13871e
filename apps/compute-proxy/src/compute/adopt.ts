/**
 * The session of a Postgres that outlived its proxy: taken over by the next life of that process, without a rebuild.
 * Its clients stay connected; commits that waited when the proxy died keep waiting, and are confirmed as soon as WAL
 * is streamed again.
 *
 * I2, I4 (libs/consensus/README.md, rule 3): adopted is only the very process that this compute streamed last, under
 * the last term of the log, and whose WAL is what the safekeepers have up to the end of that log. Its guard (lease.ts)
 * ends it where that takes longer than its grace. Every doubt means a rebuild.
 */
import { describeError, formatLsn, parseLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Election } from '@understory/consensus/driver'
import type { Clock } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { ReplicationConnection, ReplicationStream } from '@understory/postgres/wire'
import { safekeeperClient } from '@understory/protocol/clients'
import { STANDBY_NAME } from '../postgres/configuration.ts'
import { describeEnd } from '../postgres/launcher.ts'
import type { OldPostmaster } from '../postgres/launcher.ts'
import { connectReplication } from '../wal-proposer/replication.ts'
import type { WalProposer } from '../wal-proposer/wal-proposer.ts'
import { WalReceiver } from '../wal-proposer/wal-receiver.ts'
import { compareWal } from './compare-wal.ts'
import type { LocalWal } from './compare-wal.ts'
import type { ComputeContext } from './context.ts'
import type { Session } from './session.ts'
import type { RememberedPostgres } from './state-file.ts'
import { handled, orStopped } from './stoppable.ts'

/** The walsender before ends once it sees that its peer is gone. */
const SLOT_WAIT_MS = 1_000
const POLL_MS = 5

interface NotAdopted {
  readonly kind: 'notAdopted'
  readonly problem: string
}
export type Adoption = { readonly kind: 'adopted'; readonly session: Session } | NotAdopted

const notAdopted = (problem: string): NotAdopted => ({ kind: 'notAdopted', problem })

/** The caller ends a Postgres that is not adopted. Errors: the lead is lost; it is to be stopped. */
export async function adopt(context: ComputeContext, remembered: RememberedPostgres): Promise<Adoption> {
  const { launcher, files, candidates, signal } = context
  const postmaster = await launcher.findOld(files, remembered.process)
  if (postmaster === undefined) return notAdopted('it has ended')
  const gone = postmaster.exited.then((end) => notAdopted(`postgres ${describeEnd(end)}`))
  const living = await Promise.race([lookAt(context, remembered), gone])
  if (living.kind === 'notAdopted') return living
  const { replication, wal, postgres } = living
  const proposer = candidates.stand(postgres, parseLsn(remembered.timelineStartLsn), {
    livingTerm: remembered.term,
    compareLocalWal: (donor, term, endLsn) => compare(context, wal, { donor, term, endLsn }),
  })
  try {
    const taking = takeOver(context, { proposer, replication, postmaster, remembered, postgres })
    const adoption = await orStopped(Promise.race([taking, gone]), signal)
    if (adoption.kind === 'notAdopted') abandon(proposer, replication)
    return adoption
  } catch (error) {
    abandon(proposer, replication)
    throw error
  }
}

function abandon(proposer: WalProposer, replication: ReplicationConnection): void {
  proposer.close()
  replication.destroy()
}

interface Living {
  readonly kind: 'living'
  readonly replication: ReplicationConnection
  readonly postgres: PostgresIdentity
  readonly wal: LocalWal
}

/** Its own report. */
async function lookAt(
  { server, files }: ComputeContext,
  { systemId, pgTimelineId, walSegmentBytes, startLsn }: RememberedPostgres,
): Promise<Living | NotAdopted> {
  let replication: ReplicationConnection | undefined
  try {
    replication = await connectReplication(server.target)
    const found = await replication.identifySystem()
    const slot = await replication.readSlot(STANDBY_NAME)
    if (found.systemId !== BigInt(systemId) || found.timelineId !== pgTimelineId || slot === undefined)
      throw new Error('it is another one')
    const postgres = { major: server.target.major, systemId: found.systemId, pgTimelineId, walSegmentBytes }
    const wal = {
      pgdata: files.pgdata,
      pgTimelineId,
      segmentBytes: walSegmentBytes,
      startLsn: parseLsn(startLsn),
      confirmedLsn: slot.restartLsn,
      flushLsn: found.flushLsn,
    }
    return { kind: 'living', replication, postgres, wal }
  } catch (error) {
    replication?.destroy()
    return notAdopted(describeError(error))
  }
}

async function compare(
  { rpc, spec, log, signal }: ComputeContext,
  wal: LocalWal,
  { donor, term, endLsn }: { readonly donor: string; readonly term: number; readonly endLsn: Lsn },
): Promise<boolean> {
  const client = safekeeperClient(rpc, donor)
  try {
    const problem = await compareWal(wal, endLsn, (from, to) =>
      client.readWal(spec.timeline, from, to, { signal, term }),
    )
    if (problem !== undefined) log.warn('local_wal_differs', { problem })
    return problem === undefined
  } catch (error) {
    log.warn('local_wal_not_compared', { problem: describeError(error) })
    return false
  } finally {
    client.close()
  }
}

interface Taking {
  readonly proposer: WalProposer
  readonly replication: ReplicationConnection
  readonly postmaster: OldPostmaster
  readonly remembered: RememberedPostgres
  readonly postgres: PostgresIdentity
}

async function takeOver(
  { clock }: ComputeContext,
  { proposer, replication, postmaster, remembered, postgres }: Taking,
): Promise<Adoption> {
  const election: Election = await proposer.elected
  if (election.kind !== 'adopt') return notAdopted('its WAL is not that of the last term')
  const { startLsn: atLsn } = election
  // WAL that was in flight is committed by this term before it is reported to Postgres.
  await proposer.waitForCommit(atLsn)
  const stream = await startStream(replication, atLsn, postgres.pgTimelineId, clock)
  if (stream === undefined) return notAdopted('it does not stream')
  if (!(await postmaster.keep())) return notAdopted('its grace is over')
  const receiver = new WalReceiver(stream, proposer, atLsn, undefined, postgres.walSegmentBytes, clock)
  const streaming = handled(receiver.run())
  // Commits that waited for it need not wait for the next one.
  stream.report(atLsn)
  const { startLsn, rebuiltAtLsn } = remembered
  const session: Session = {
    kind: 'adopt',
    postgres,
    timelineStartLsn: parseLsn(remembered.timelineStartLsn),
    postmaster,
    proposer,
    receiver,
    streaming,
    startLsn: parseLsn(startLsn),
    rebuiltAtLsn: rebuiltAtLsn === undefined ? undefined : parseLsn(rebuiltAtLsn),
    emptyInitForks: [],
  }
  return { kind: 'adopted', session }
}

/** Undefined where it refuses for long: its walsender before may still have the slot. */
async function startStream(
  replication: ReplicationConnection,
  startLsn: Lsn,
  timelineId: number,
  clock: Clock,
): Promise<ReplicationStream | undefined> {
  const untilMs = clock.nowMs() + SLOT_WAIT_MS
  for (;;) {
    try {
      return await replication.startReplication({ slot: STANDBY_NAME, startLsn, timelineId })
    } catch {
      if (clock.nowMs() > untilMs) return undefined
    }
    await clock.sleep(POLL_MS)
  }
}

/** The facts that the next life needs to adopt the Postgres of this session. Undefined where it never may. */
export async function rememberable(
  { launcher }: Pick<ComputeContext, 'launcher'>,
  session: Session,
): Promise<RememberedPostgres | undefined> {
  const process = await launcher.identify(session.postmaster)
  if (process === undefined) return undefined
  const { postgres, proposer, startLsn, rebuiltAtLsn, timelineStartLsn } = session
  return {
    process,
    term: proposer.term,
    systemId: String(postgres.systemId),
    pgTimelineId: postgres.pgTimelineId,
    walSegmentBytes: postgres.walSegmentBytes,
    timelineStartLsn: formatLsn(timelineStartLsn),
    startLsn: formatLsn(startLsn),
    ...(rebuiltAtLsn === undefined ? {} : { rebuiltAtLsn: formatLsn(rebuiltAtLsn) }),
  }
}
