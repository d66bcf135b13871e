/** ComputeService: parse, call the compute, convert. */
import { Signal } from '@understory/actor'
import { lsnToBigint, parseLsn, fail } from '@understory/base'
import { realClock } from '@understory/env'
import type { CheckedSpec } from '@understory/protocol'
import { ComputeServiceService, ComputeState, serverStream, service, unary } from '@understory/rpc'
import type {
  ClientContext,
  ComputeServiceServer,
  GetComputeStatusResponse,
  IngestLag as IngestLagMessage,
  RpcService,
  VerifyTimelineResponse,
} from '@understory/rpc'
import type { Compute } from '../compute/compute.ts'
import type { ComputePhase } from '../telemetry/metrics.ts'
import { toMessage } from '../postgres/configuration-store.ts'
import { PasswordSetter } from '../compute/password.ts'
import { withoutValues } from '../postgres/postgres-log.ts'
import { connectSql, foreignReceivers, withSql } from '../postgres/sql.ts'
import type { SqlTarget } from '../postgres/sql.ts'
import type { IngestLag } from '../wal-proposer/ingest-lag.ts'
import { verifyTimeline } from '../verify/verify.ts'

const STOP_DEADLINE_DEFAULT_MS = 60_000
/** A timer that is given more than 2^31 ms fires at once. */
const STOP_DEADLINE_MAX_MS = 24 * 3_600_000
const FLUSH_PAUSES_MS = [5, 50, 500]

const STATES = {
  bootstrapping: ComputeState.COMPUTE_STATE_IMPORTING,
  // Postgres serves in the meantime, and its commits wait.
  adopting: ComputeState.COMPUTE_STATE_ELECTING,
  electing: ComputeState.COMPUTE_STATE_ELECTING,
  rebuilding: ComputeState.COMPUTE_STATE_REBUILDING,
  starting: ComputeState.COMPUTE_STATE_STARTING,
  running: ComputeState.COMPUTE_STATE_RUNNING,
  stopping: ComputeState.COMPUTE_STATE_STOPPING,
  stopped: ComputeState.COMPUTE_STATE_STOPPED,
} as const satisfies Record<ComputePhase, ComputeState>

export interface RunningCompute {
  readonly compute: Compute
  readonly spec: CheckedSpec
}

/** Error of `current`, and so of every call: `unavailable` where there is no compute yet. */
export function computeService(rpc: ClientContext, current: () => RunningCompute): RpcService {
  const passwords = new PasswordSetter()
  return service<ComputeServiceServer>(ComputeServiceService, {
    getComputeStatus: unary(() => statusOf(current())),

    setFullPageWrites: unary(async ({ on }) => {
      const { compute } = current()
      const target = compute.sqlTarget()
      if (!on) await refuseForeignReceivers(target)
      const insertLsn = await setFullPageWrites(target, on)
      await compute.keepConfiguration()
      void flushNowAndThen(target).catch(() => undefined)
      return { insertLsn: lsnToBigint(parseLsn(insertLsn)) }
    }),

    setPassword: unary(async ({ verifier, generation }, { signal }) => {
      await passwords.set(current().compute, verifier, generation, signal)
      return {}
    }),

    getConfiguration: unary(() => {
      const { kept } = current().compute.configuration
      return { configuration: kept === undefined ? undefined : toMessage(kept) }
    }),

    runCheckpoint: unary(async () => {
      const redo = await withSql(current().compute.sqlTarget(), async (client) => {
        await client.query('checkpoint')
        const { rows } = await client.query<{ redo: string }>(
          'select redo_lsn as redo from pg_control_checkpoint()',
        )
        return (rows[0] as { redo: string }).redo
      })
      return { redoLsn: lsnToBigint(parseLsn(redo)) }
    }),

    verifyTimeline: serverStream((_, { signal }) => verify(rpc, current(), signal)),

    stopCompute: unary(({ deadlineMs }) => {
      if (deadlineMs > STOP_DEADLINE_MAX_MS) {
        throw fail('bad_argument', `deadline of ${deadlineMs} ms is longer than ${STOP_DEADLINE_MAX_MS}`)
      }
      current().compute.requestStop(deadlineMs || STOP_DEADLINE_DEFAULT_MS)
      return { clean: false }
    }),
  })
}

function statusOf({ compute, spec }: RunningCompute): GetComputeStatusResponse {
  const view = compute.view()
  const { kept } = compute.configuration
  return {
    timeline: spec.timeline,
    state: STATES[view.state],
    progressPercent: view.progressPercent,
    connectionString:
      view.state === 'running'
        ? `postgres://postgres@${view.sqlHost}:${view.sqlPort}/postgres${spec.requireTls ? '?sslmode=require' : ''}`
        : '',
    postmasterPid: view.postmasterPid,
    term: BigInt(view.term),
    receivedLsn: lsnToBigint(view.receivedLsn),
    commitLsn: lsnToBigint(view.commitLsn),
    startLsn: lsnToBigint(view.startLsn),
    postgresStarts: view.postgresStarts,
    rebuildMs: view.rebuildMs,
    pid: process.pid,
    failure: view.failure,
    failureIsLasting: view.isFailureLasting,
    dataDirectory: compute.files.pgdata,
    postgres: view.postgres,
    birthInterrupted: view.isBootstrapInterrupted,
    configurationVersion:
      kept === undefined ? undefined : { term: BigInt(kept.term), number: BigInt(kept.number) },
    membershipGeneration: BigInt(view.membershipGeneration),
    serverCertificate: kept?.files.get('server.crt')?.toString() ?? '',
    ingestLag: view.ingestLag === undefined ? undefined : lagToMessage(view.ingestLag),
  }
}

const lagToMessage = (lag: IngestLag): IngestLagMessage => ({
  bytes: BigInt(lag.bytes),
  limitBytes: BigInt(lag.limitBytes),
  walBytesPerS: lag.walBytesPerS === Infinity ? 0n : BigInt(Math.round(lag.walBytesPerS)),
  heldMs: Math.round(lag.heldMs),
  heldBytes: BigInt(lag.heldBytes),
  unknownShards: [...lag.shardsBytes.keys()].filter((number) => lag.shardsBytes[number] === undefined),
})

/** The insert position before the reload: the change is logged after it. */
async function setFullPageWrites(target: SqlTarget, on: boolean): Promise<string> {
  return withSql(target, async (client) => {
    await client.query(`alter system set full_page_writes = ${on ? 'on' : 'off'}`)
    const { rows } = await client.query<{ lsn: string }>('select pg_current_wal_insert_lsn() as lsn')
    await client.query('select pg_reload_conf()')
    return (rows[0] as { lsn: string }).lsn
  })
}

/**
 * The checkpointer logs the change when it learns of it, but no process flushes that record on an idle server before
 * the next snapshot of running transactions, up to 15 s later (bgwriter.c, LOG_SNAPSHOT_INTERVAL_MS). A commit flushes
 * it.
 */
async function flushNowAndThen(target: SqlTarget): Promise<void> {
  await withSql(target, async (client) => {
    for (const pauseMs of FLUSH_PAUSES_MS) {
      await realClock.sleep(pauseMs)
      await client.query('select pg_current_xact_id()')
    }
  })
}

async function refuseForeignReceivers(target: SqlTarget): Promise<void> {
  const [first, ...more] = await foreignReceivers(target)
  if (first === undefined) return
  throw fail(
    'precondition',
    `full_page_writes cannot be switched off while ${[first, ...more].join(', ')} receives WAL`,
    {
      detail: 'a server that replays such WAL on its own disk cannot recover after a torn page',
      hint: 'Remove it first.',
    },
  )
}

async function* verify(
  rpc: ClientContext,
  { compute, spec }: RunningCompute,
  signal: AbortSignal,
): AsyncGenerator<VerifyTimelineResponse, void, void> {
  const target = compute.sqlTarget()
  const { rebuiltAtLsn, postgres } = compute.view()
  if (postgres === undefined) throw fail('unavailable', 'the compute is not running')
  // Progress arrives by callback while the result is on its way: at most one line a wake-up is sent.
  let progress: { pagesDone: bigint; pagesTotal: bigint } | undefined
  const changes = new Signal()
  const running = verifyTimeline({
    rpc,
    dataDirectory: compute.files.pgdata,
    major: spec.postgresMajor,
    postgres,
    connect: (database) => connectSql(target, { database }),
    pageservers: spec.pageservers,
    stripeBlocks: spec.stripeBlocks,
    safekeepers: spec.safekeepers,
    timeline: spec.timeline,
    startedAtLsn: rebuiltAtLsn,
    traces: compute.telemetry?.traces,
    signal,
    onProgress: (done, total) => {
      progress = { pagesDone: BigInt(done), pagesTotal: BigInt(total) }
      changes.notify()
    },
  })
  let isOver = false
  const end = (): void => {
    isOver = true
    changes.notify()
  }
  running.then(end, end)
  while (!isOver) {
    await changes.until(() => isOver || progress !== undefined)
    if (progress !== undefined) yield { ...progress, result: undefined }
    progress = undefined
    await Promise.resolve()
  }
  const result = await running.catch((error: unknown) => {
    throw withoutValues(error)
  })
  yield { pagesDone: 0n, pagesTotal: 0n, result }
}
