/**
 * The first session of a timeline: initdb, a first start, and the import of a base backup, while the WAL already goes
 * through the quorum.
 */
import { describeError, formatLsn, offsetInSegment, parseLsn, present, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { initdbArguments } from '@understory/pgdata'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { WAL_SEGMENT_BYTES } from '@understory/postgres/wal'
import { importBaseBackup } from '../import/import.ts'
import { STANDBY_NAME, firstConfiguration, seedOf, writeGate } from '../postgres/configuration.ts'
import type { Postmaster } from '../postgres/launcher.ts'
import { endPostmaster } from '../postgres/postgres.ts'
import { isConfigurationApplied, waitForSql, withSql } from '../postgres/sql.ts'
import { connectReplication } from '../wal-proposer/replication.ts'
import { createTimeline, walStatuses } from '../wal-proposer/safekeeper-calls.ts'
import type { WalProposer } from '../wal-proposer/wal-proposer.ts'
import { WalReceiver } from '../wal-proposer/wal-receiver.ts'
import { bootstrapProgress } from './bootstrap-progress.ts'
import type { ComputeContext } from './context.ts'
import { BootstrapInterruptedError } from './failure.ts'
import { failureOf } from './session.ts'
import type { Session } from './session.ts'
import { handled, orStopped } from './stoppable.ts'

/**
 * The contents of storage decide, because a bootstrap can be cut short anywhere. Error: `BootstrapInterruptedError`
 * where it has a part. The control plane begins the timeline again; nothing is lost by that, because clients are let in
 * only after a whole bootstrap.
 */
export async function needsBootstrap({ rpc, spec, memory, signal }: ComputeContext): Promise<boolean> {
  if (memory.state.born || !spec.bootstrap) return false
  const known = await walStatuses(rpc, spec, signal)
  if (known.length === 0) return true
  if ((await bootstrapProgress(rpc, spec, signal)) === 'partial') throw new BootstrapInterruptedError()
  return false
}

/** The caller ends what is there already. Nothing runs any more where it fails. */
export async function bootstrap(context: ComputeContext): Promise<Session> {
  const { spec, files, launcher, server, clock, log, progress } = context
  progress.phase('bootstrapping')
  log.info('bootstrap_started', { major: spec.postgresMajor })
  await launcher.initdb(files, initdbArguments(spec.postgresMajor))
  await launcher.install(files, await firstConfiguration(files, seedOf(context)))
  writeGate(files, 'bootstrap', context)
  const postmaster = await server.start()
  try {
    await waitForFirstSql(context, postmaster)
    return await streamAndImport(context, postmaster)
  } catch (error) {
    await endPostmaster(postmaster, clock)
    throw error
  }
}

async function waitForFirstSql({ server, clock }: ComputeContext, postmaster: Postmaster): Promise<void> {
  await waitForSql(server.target, clock, postmaster.exited, 'postgres').catch((cause: unknown) => {
    // Its files are new: what keeps it from starting is what it was given, or the machine.
    throw fail('precondition', `Postgres does not start: ${describeError(cause).replace(/\.$/, '')}`, {
      hint: 'Correct that; or remove the tenant and create it with other settings.',
      cause,
    })
  })
  await withSql(
    server.target,
    async (client) => {
      await client.query(`create role ${STANDBY_NAME} superuser replication login`)
    },
    { user: 'postgres' },
  )
}

async function streamAndImport(context: ComputeContext, postmaster: Postmaster): Promise<Session> {
  const { rpc, spec, server, candidates, configuration, memory, signal, clock } = context
  const replication = await connectReplication(server.target)
  const { systemId, timelineId } = await replication.identifySystem()
  await replication.createPhysicalSlot(STANDBY_NAME)
  const slot = present(await replication.readSlot(STANDBY_NAME), 'the slot that was made a moment ago')
  const { restartLsn } = slot
  const startLsn = (restartLsn - offsetInSegment(restartLsn, WAL_SEGMENT_BYTES)) as Lsn
  const postgres: PostgresIdentity = {
    major: spec.postgresMajor,
    systemId,
    pgTimelineId: timelineId,
    walSegmentBytes: WAL_SEGMENT_BYTES,
  }
  await createTimeline(rpc, spec, postgres, startLsn, signal)
  const proposer = candidates.stand(postgres, startLsn)
  try {
    await orStopped(proposer.elected, signal)
    const stream = await replication.startReplication({ slot: STANDBY_NAME, startLsn, timelineId })
    const receiver = new WalReceiver(stream, proposer, startLsn, undefined, WAL_SEGMENT_BYTES, clock)
    const streaming = handled(receiver.run())
    const parts = { postmaster, proposer, streaming }
    await Promise.race([importInto(context, proposer), failureOf(parts, context)])
    await configuration.keep(proposer.term, () => isConfigurationApplied(server.target))
    memory.remember({ born: true })
    const positions = { timelineStartLsn: startLsn, startLsn, rebuiltAtLsn: undefined }
    return { kind: 'bootstrap', postgres, ...parts, receiver, ...positions, emptyInitForks: [] }
  } catch (error) {
    proposer.close()
    throw error
  }
}

async function importInto(
  { rpc, spec, server, signal, log }: ComputeContext,
  proposer: WalProposer,
): Promise<void> {
  const replication = await connectReplication(server.target)
  try {
    const imported = await importBaseBackup({
      rpc,
      backup: replication.baseBackup('understory import'),
      major: spec.postgresMajor,
      layout: { count: spec.pageservers.length, stripeBlocks: spec.stripeBlocks },
      pageservers: spec.pageservers,
      timeline: spec.timeline,
      signal,
    })
    const [{ lsn } = { lsn: '0/0' }] = await withSql(
      server.target,
      async (client) =>
        (await client.query<{ lsn: string }>('select pg_current_wal_flush_lsn() as lsn')).rows,
    )
    log.info('base_backup_imported', {
      startLsn: formatLsn(imported.startLsn),
      endLsn: formatLsn(imported.endLsn),
      flushLsn: lsn,
    })
    await proposer.waitForCommit(imported.endLsn > parseLsn(lsn) ? parseLsn(lsn) : imported.endLsn)
    await imported.finish()
  } finally {
    replication.close()
  }
}
