/**
 * The public client of the control plane. LSNs go in and out as text (`16/B374D848`); a call fails with an
 * `UnderstoryError`, whose `code` says what kind of trouble it is and whose `hint` says what to do.
 */
import { formatLsn, lsnFromBigint, refuse } from '@understory/base'
import {
  ComputeState,
  ControlPlaneServiceClient,
  FpwPhase,
  FullPageWrites,
  callServerStream,
  callUnary,
  createClient as createRpcClient,
} from '@understory/rpc'
import type {
  CallOptions,
  FpwStatus,
  GetTimelineResponse,
  Node,
  Tenant,
  Timeline,
  TimelineRef,
  VerifyResult,
} from '@understory/rpc'

export interface ClientOptions {
  /** host:port of the control plane. */
  readonly endpoint: string
  /** Milliseconds that an ordinary call may take; 30,000 by default. */
  readonly deadlineMs?: number
}

export interface CreateTenantOptions {
  readonly name: string
  /** 16, 17 or 18; 17 by default. */
  readonly postgresMajor?: number
  readonly shardCount?: number
  readonly stripeBlocks?: number
  /** Records after which a page's chain is cut by an image. */
  readonly imageThresholdRecords?: number
  /** Postgres settings by which the tenant begins. */
  readonly settings?: Readonly<Record<string, string>>
  /** TCP port of Postgres; any free one by default. */
  readonly sqlPort?: number
  /** The same id makes a repeated call return the first one's result. */
  readonly requestId?: string
}

/** Where a switch of full_page_writes stands. */
export interface FpwView {
  readonly wanted: 'on' | 'off'
  readonly phase: 'on' | 'switching off' | 'off' | 'switching on'
  /** Where the present state began in the WAL. */
  readonly sinceLsn: string
  readonly steps: readonly {
    readonly name: string
    readonly tookMs: number
    readonly done: boolean
    readonly lsn: string
  }[]
  /** Empty, or why it does not go on. */
  readonly problem: string
  readonly tookMs: number
}

export interface VerifyProgress {
  readonly pagesDone: number
  readonly pagesTotal: number
}

export interface UnderstoryClient {
  createTenant(
    options: CreateTenantOptions,
  ): Promise<{ readonly tenant: Tenant; readonly timeline: TimelineRef }>
  /** Every tenant, page after page. */
  listTenants(): AsyncGenerator<Tenant, void, void>
  /** By name or id. */
  getTenant(tenant: string): Promise<Tenant>
  listTimelines(tenant: string): Promise<readonly Timeline[]>
  getTimeline(tenant: string, timeline?: string): Promise<GetTimelineResponse>
  /** Polls until the timeline's Postgres takes SQL; gives its connection string. */
  waitForSql(tenant: string, options?: WaitOptions): Promise<string>
  /** Asks for the switch and returns at once. */
  switchFullPageWrites(tenant: string, wanted: 'on' | 'off'): Promise<FpwView>
  getFullPageWrites(tenant: string): Promise<FpwView>
  /** Ends when the switch has reached what is wanted; throws `precondition` with the reason where it cannot. */
  waitForFullPageWrites(
    tenant: string,
    options?: WaitOptions & { onStep?: (view: FpwView) => void },
  ): Promise<FpwView>
  verifyTimeline(
    tenant: string,
    timeline?: string,
    options?: { readonly signal?: AbortSignal; readonly onProgress?: (progress: VerifyProgress) => void },
  ): Promise<VerifyResult>
  listNodes(): Promise<readonly Node[]>
}

export interface WaitOptions {
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
  /** Called with one line whenever the state changed. */
  readonly onProgress?: (line: string) => void
}

const PHASES: Readonly<Record<number, FpwView['phase']>> = {
  [FpwPhase.FPW_PHASE_ON]: 'on',
  [FpwPhase.FPW_PHASE_SWITCHING_OFF]: 'switching off',
  [FpwPhase.FPW_PHASE_OFF]: 'off',
  [FpwPhase.FPW_PHASE_SWITCHING_ON]: 'switching on',
}

function viewOf(status: FpwStatus | undefined): FpwView {
  if (status === undefined) throw refuse('unavailable', 'the control plane answered without a status')
  return {
    wanted: status.wanted === FullPageWrites.FULL_PAGE_WRITES_OFF ? 'off' : 'on',
    phase: PHASES[status.phase] ?? 'on',
    sinceLsn: formatLsn(lsnFromBigint(status.sinceLsn)),
    steps: status.steps.map(({ name, tookMs, done, lsn }) => ({
      name,
      done,
      tookMs: Number(tookMs),
      lsn: formatLsn(lsnFromBigint(lsn)),
    })),
    problem: status.problem,
    tookMs: Number(status.tookMs),
  }
}

function given<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw refuse('unavailable', `the control plane answered without ${what}`)
  return value
}

export function createClient(options: ClientOptions): UnderstoryClient {
  const client = createRpcClient(ControlPlaneServiceClient, options.endpoint)
  const call: CallOptions = {
    peer: `the control plane at ${options.endpoint}`,
    ...(options.deadlineMs === undefined ? {} : { deadlineMs: options.deadlineMs }),
  }

  return {
    async createTenant(wanted) {
      const { tenant, timeline } = await callUnary(
        client.createTenant.bind(client),
        {
          name: wanted.name,
          postgresMajor: wanted.postgresMajor ?? 0,
          shardCount: wanted.shardCount ?? 0,
          stripeBlocks: wanted.stripeBlocks ?? 0,
          imageThresholdRecords: wanted.imageThresholdRecords ?? 0,
          settings: { ...wanted.settings },
          sqlPort: wanted.sqlPort ?? 0,
          requestId: wanted.requestId ?? crypto.randomUUID(),
        },
        call,
      )
      return { tenant: given(tenant, 'a tenant'), timeline: given(timeline, 'a timeline') }
    },

    async *listTenants() {
      let pageToken = ''
      do {
        const page = await callUnary(client.listTenants.bind(client), { pageSize: 0, pageToken }, call)
        yield* page.tenants
        pageToken = page.nextPageToken
      } while (pageToken !== '')
    },

    async getTenant(tenant) {
      return given((await callUnary(client.getTenant.bind(client), { tenant }, call)).tenant, 'a tenant')
    },

    async listTimelines(tenant) {
      return (await callUnary(client.listTimelines.bind(client), { tenant }, call)).timelines
    },

    getTimeline: (tenant, timeline = '') =>
      callUnary(client.getTimeline.bind(client), { tenant, timeline }, call),

    async waitForSql(tenant, wait = {}) {
      let last = ''
      return poll(wait, `Postgres of tenant "${tenant}" to take SQL`, async () => {
        const { compute } = await this.getTimeline(tenant)
        const line =
          compute === undefined
            ? 'waiting for the compute'
            : compute.failure !== ''
              ? compute.failure
              : progressLine(compute.state, compute.progressPercent)
        if (line !== last) wait.onProgress?.(line)
        last = line
        return compute?.connectionString === '' ? undefined : compute?.connectionString
      })
    },

    async switchFullPageWrites(tenant, wanted) {
      const request = { tenant, on: wanted === 'on' }
      return viewOf((await callUnary(client.switchFullPageWrites.bind(client), request, call)).status)
    },

    async getFullPageWrites(tenant) {
      return viewOf((await callUnary(client.getFullPageWrites.bind(client), { tenant }, call)).status)
    },

    async waitForFullPageWrites(tenant, wait = {}) {
      const timeoutMs = wait.timeoutMs ?? 120_000
      const deadline = AbortSignal.timeout(timeoutMs)
      const signal = wait.signal === undefined ? deadline : AbortSignal.any([deadline, wait.signal])
      let problem = ''
      try {
        const watch = callServerStream(
          client.watchFullPageWrites.bind(client),
          { tenant },
          { ...call, signal },
        )
        for await (const { status } of watch) {
          const view = viewOf(status)
          wait.onStep?.(view)
          if (view.phase === view.wanted) return view
          problem = view.problem
        }
      } catch (error) {
        if (!deadline.aborted) throw error
      }
      throw refuse(
        'timeout',
        `full_page_writes of tenant "${tenant}" did not switch within ${timeoutMs} ms`,
        {
          ...(problem === '' ? {} : { detail: problem }),
          hint: 'See `understory tenant fpw status`.',
        },
      )
    },

    async verifyTimeline(tenant, timeline = '', { signal, onProgress } = {}) {
      const verify = callServerStream(
        client.verifyTenantTimeline.bind(client),
        { tenant, timeline },
        { ...call, deadlineMs: Infinity, ...(signal === undefined ? {} : { signal }) },
      )
      for await (const { progress } of verify) {
        if (progress?.result !== undefined) return progress.result
        onProgress?.({
          pagesDone: Number(progress?.pagesDone ?? 0n),
          pagesTotal: Number(progress?.pagesTotal ?? 0n),
        })
      }
      throw refuse('unavailable', 'the verification ended without a result')
    },

    async listNodes() {
      return (await callUnary(client.listNodes.bind(client), {}, call)).nodes
    },
  }
}

const COMPUTE_STATE_LINES: Readonly<Record<number, string>> = {
  [ComputeState.COMPUTE_STATE_IMPORTING]: 'a new Postgres is taken into storage',
  [ComputeState.COMPUTE_STATE_ELECTING]: 'asking the safekeepers for the lead',
  [ComputeState.COMPUTE_STATE_REBUILDING]: 'the data directory is written from storage',
  [ComputeState.COMPUTE_STATE_STARTING]: 'Postgres is starting',
  [ComputeState.COMPUTE_STATE_RUNNING]: 'Postgres is open for SQL',
  [ComputeState.COMPUTE_STATE_STOPPING]: 'Postgres is stopping',
}
function progressLine(state: ComputeState, percent: number): string {
  const line = COMPUTE_STATE_LINES[state] ?? 'waiting for the compute'
  return percent > 0 && percent < 100 ? `${line}, ${percent} %` : line
}

const POLL_MS = 100

/** Calls `probe` until it gives something; trouble that may pass is retried until the time is over. */
async function poll<T>(options: WaitOptions, what: string, probe: () => Promise<T | undefined>): Promise<T> {
  const timeoutMs = options.timeoutMs ?? 120_000
  const deadline = AbortSignal.timeout(timeoutMs)
  let lastError: unknown
  while (!deadline.aborted) {
    if (options.signal?.aborted === true) throw refuse('cancelled', `waiting for ${what} was cancelled`)
    try {
      const value = await probe()
      if (value !== undefined) return value
    } catch (error) {
      if (
        !(
          error instanceof Error &&
          'code' in error &&
          (error.code === 'unavailable' || error.code === 'timeout')
        )
      ) {
        throw error
      }
      lastError = error
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS))
  }
  throw refuse('timeout', `waited ${timeoutMs} ms for ${what}`, { cause: lastError })
}
