/** A Postgres that streams through a quorum: how clients are let in, what ends it, and how it ends. */
import { describeError, formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { lossError } from '@understory/consensus/driver'
import type { Clock, Log } from '@understory/env'
import type { AssembledPgdata } from '@understory/pgdata'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { writeGate } from '../postgres/configuration.ts'
import { describeEnd } from '../postgres/launcher.ts'
import type { Postmaster } from '../postgres/launcher.ts'
import { endPostmaster, endedError, forbidStart, postgresError } from '../postgres/postgres.ts'
import { areRulesReadable, reloadConfiguration, waitUntilSynchronous, withSql } from '../postgres/sql.ts'
import { UnloggedIndexes } from '../postgres/unlogged-indexes.ts'
import type { WalProposer } from '../wal-proposer/wal-proposer.ts'
import type { WalReceiver } from '../wal-proposer/wal-receiver.ts'
import type { ComputeContext } from './context.ts'
import type { SessionLoss } from './lifecycle.ts'
import { saveLocalWal } from './local-wal.ts'
import { handled, orStopped } from './stoppable.ts'

export interface Session {
  readonly kind: 'bootstrap' | 'rebuild' | 'adopt'
  readonly postgres: PostgresIdentity
  /** Of the whole timeline. */
  readonly timelineStartLsn: Lsn
  readonly postmaster: Postmaster
  readonly proposer: WalProposer
  readonly receiver: WalReceiver
  /** The stream's end: normally where Postgres stops cleanly. */
  readonly streaming: Promise<void>
  /** Where this Postgres began to write. */
  readonly startLsn: Lsn
  /** The same, where its files came from storage; undefined since bootstrap, when all pages are its own. */
  readonly rebuiltAtLsn: Lsn | undefined
  readonly emptyInitForks: AssembledPgdata['emptyInitForks']
}

/** Rejects once it is over: with what ended Postgres, its stream or its lead. */
export function failureOf(
  { postmaster, proposer, streaming }: Pick<Session, 'postmaster' | 'proposer' | 'streaming'>,
  { files }: Pick<ComputeContext, 'files'>,
): Promise<never> {
  return Promise.race([
    postmaster.exited.then(async (end) => {
      throw await endedError(files, end)
    }),
    streaming.then(() => {
      throw fail('unavailable', 'the WAL stream ended before Postgres was open')
    }),
    proposer.lost.then((loss) => {
      throw lossError(loss)
    }),
  ])
}

/** Lets clients in, once commits wait for the quorum and the indexes of unlogged tables are fit for use. */
export async function openSession(context: ComputeContext, session: Session): Promise<void> {
  const { clock, log } = context
  const { target } = context.server
  const unloggedIndexes = new UnloggedIndexes(target, clock, log)
  // Without its stream or its quorum this Postgres never gets a synchronous standby again, and must serve no client
  // (I2).
  const failure = handled(failureOf(session, context))
  const ready = waitUntilSynchronous(target, clock).then(() =>
    unloggedIndexes.rebuild(session.emptyInitForks),
  )
  await orStopped(Promise.race([ready, failure]), context.signal)
  // Its gate is open, and the rules are those that it has.
  if (session.kind === 'adopt') return
  await Promise.race([letIn(context), failure])
}

async function letIn(context: ComputeContext): Promise<void> {
  const { clock, log, files, launcher, configuration, server } = context
  writeGate(files, 'open', context)
  await withSql(server.target, async (client) => {
    const rules = configuration.kept?.soundFiles.get('pg_hba.conf')
    if (rules !== undefined && !(await areRulesReadable(client))) {
      log.warn('rules_rejected', {})
      // They let no client in: those of the user that could be read last take their place.
      await launcher.install(files, new Map([['pg_hba.conf', rules]]))
    }
    await client.query('select pg_reload_conf()')
  })
  await reloadConfiguration(server.target, clock)
}

/** Resolves once it is over without having been asked to. */
export async function lossOf(
  { postmaster, proposer, streaming }: Session,
  { files }: Pick<ComputeContext, 'files'>,
): Promise<SessionLoss> {
  const streamLost = async (detail: string): Promise<SessionLoss> => {
    const error = await postgresError(files, `lost its WAL stream${detail}`)
    return { kind: 'postgresLost', problem: describeError(error) }
  }
  return Promise.race<SessionLoss>([
    postmaster.exited.then(async (end) => ({
      kind: 'postgresLost',
      problem: describeError(await endedError(files, end)),
    })),
    proposer.lost.then((loss) => ({ kind: 'leadLost', loss, problem: describeError(lossError(loss)) })),
    streaming.then(
      () => streamLost(''),
      (error: unknown) => streamLost(`: ${describeError(error)}`),
    ),
  ])
}

interface EndParts {
  readonly clock: Clock
  readonly log: Log
  /** The work before Postgres is asked to end; the deadline of the stop holds for it too. Never rejects. */
  readonly prepare: () => Promise<void>
}

/**
 * Whether it ended cleanly. A fast shutdown ends when the standby has confirmed the shutdown checkpoint; without a
 * quorum it never would.
 */
export async function stopSession(
  session: Session,
  deadlineMs: number,
  { clock, log, prepare }: EndParts,
): Promise<boolean> {
  const { postmaster, proposer, receiver } = session
  const late = Promise.withResolvers<'late'>()
  const timer = clock.setTimer(deadlineMs, () => late.resolve('late'))
  const over = Promise.race([proposer.lost.then(() => 'late' as const), late.promise])
  // A Postgres that hangs, or has lost its quorum, does not answer what is asked here.
  await Promise.race([prepare(), postmaster.exited, over])
  // A shutdown ends waits for the quorum, and an apply worker then confirms what no quorum has: not without one.
  // The first that is settled already wins.
  const isQuorumThere = await Promise.race([
    over.then(() => false),
    receiver.committed().then(
      () => true,
      () => false,
    ),
  ])
  postmaster.signal(isQuorumThere ? 'SIGINT' : 'SIGQUIT')
  const end = await Promise.race([postmaster.exited, over])
  // Postgres ends the stream once everything is confirmed, so the quorum has the checkpoint by then. A late checkpoint
  // holds the stream open for as long as it hangs: it is not waited for.
  await Promise.race([session.streaming.catch(() => undefined), over])
  timer.cancel()
  const hasAll = proposer.commitLsn >= receiver.receivedLsn
  const clean = end !== 'late' && end.kind === 'clean' && hasAll
  log.info('postgres_stopped', {
    clean,
    how: end === 'late' ? 'late' : describeEnd(end),
    commitLsn: formatLsn(proposer.commitLsn),
    receivedLsn: formatLsn(receiver.receivedLsn),
  })
  return clean
}

/**
 * Ends Postgres at once, in any state, and then the lead: `saved` once the quorum has the WAL that is on the local disk
 * alone. PGDATA is not fit for a start after this: it has no token (I4).
 */
export async function dropSession(
  { clock, launcher, files, signal, log }: ComputeContext,
  session: Session | undefined,
  lead: 'now' | 'saved',
): Promise<void> {
  if (session !== undefined) {
    await endPostmaster(session.postmaster, clock)
    if (lead === 'now') session.proposer.close()
  }
  await launcher.endOld(files)
  await forbidStart(files)
  if (session === undefined || lead === 'now') return
  await saveLocalWal({ ...session, pgdata: files.pgdata, signal, log })
  session.proposer.close()
}
