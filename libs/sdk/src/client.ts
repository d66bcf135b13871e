/**
 * The public client of the control plane. LSNs go in and out as text (`16/B374D848`); a call fails with an
 * `UnderstoryError`, whose `code` says what kind of trouble it is and whose `hint` says what to do.
 */
import { UnderstoryError, formatLsn, lsnFromBigint, refuse } from '@understory/base'
import {
  ComputeState,
  ControlPlaneServiceClient,
  FpwPhase,
  FullPageWrites,
  callServerStream,
  callUnary as callOnce,
  createClient as createRpcClient,
} from '@understory/rpc'
import type {
  CallOptions,
  ClientSecurity,
  FpwStatus,
  GetTimelineResponse,
  Node,
  Removal,
  SafekeepersStatus,
  Tenant,
  Timeline,
  TimelineRef,
  VerifyResult,
} from '@understory/rpc'
import { readPages } from './pages.ts'
import type { GetPagesOptions, PageAddress } from './pages.ts'
import { RETRIES_DEFAULT, retrying } from './retry.ts'
import { tail } from './wal-tail.ts'
import type { WalPiece, WalTailOptions } from './wal-tail.ts'

export interface ClientOptions {
  /** host:port of the control plane. */
  readonly endpoint: string
  /** Milliseconds that an ordinary call may take; 30,000 by default. */
  readonly deadlineMs?: number
  /** How often a call that met passing trouble is made again, each time after a longer pause; 3 by default. */
  readonly retries?: number
  /** Of the installation, where it demands one. */
  readonly token?: string
  /** Where the installation speaks TLS; `{}` trusts the system's authorities. */
  readonly tls?: NonNullable<ClientSecurity['tls']>
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

/** A timeline's safekeepers, and the change of them that is under way or was the last. */
export interface SafekeepersView {
  /** Grows with every change, twice. */
  readonly generation: number
  readonly safekeepers: readonly {
    readonly node: string
    readonly role: 'member' | 'joining' | 'leaving' | 'left'
    readonly alive: boolean
    readonly generation: number
    readonly flushLsn: string
    readonly commitLsn: string
    /** Empty, or what is wrong with it. */
    readonly failure: string
  }[]
  readonly change: SafekeeperChangeView | undefined
}

export interface SafekeeperChangeView {
  readonly number: number
  readonly add: readonly string[]
  readonly remove: readonly string[]
  readonly reason: 'user' | 'lost_node' | 'recovery' | 'stored'
  /** Given up: the members are those of before. */
  readonly cancelled: boolean
  readonly steps: readonly { readonly name: string; readonly done: boolean; readonly tookMs: number }[]
  readonly done: boolean
  /** Empty, or why it does not go on. */
  readonly problem: string
  readonly tookMs: number
  /** Of the newcomer that is furthest behind, while it pulls; `0/0` otherwise. */
  readonly pulledLsn: string
  readonly pullGoalLsn: string
}

export interface SafekeeperWish {
  /** Name or id; main by default. */
  readonly timeline?: string
  readonly add?: readonly string[]
  readonly remove?: readonly string[]
}

export interface VerifyProgress {
  readonly pagesDone: number
  readonly pagesTotal: number
}

export interface UnderstoryClient extends Disposable {
  createTenant(
    options: CreateTenantOptions,
  ): Promise<{ readonly tenant: Tenant; readonly timeline: TimelineRef }>
  /** Every tenant, page after page. */
  listTenants(): AsyncGenerator<Tenant, void, void>
  /** By name or id. */
  getTenant(tenant: string): Promise<Tenant>
  /**
   * The tenant is not found from then on and its name is free; what there is of it is removed after that
   * (`waitForRemoval`). Refused `precondition` while it has a compute, unless that is to be ended.
   */
  deleteTenant(tenant: string, options?: DeleteOptions): Promise<void>
  listTimelines(tenant: string): Promise<readonly Timeline[]>
  /** As `deleteTenant`. */
  deleteTimeline(tenant: string, timeline: string, options?: DeleteOptions): Promise<void>
  /** Deleted timelines of which something is left, and the nodes that are waited for. */
  listRemovals(): Promise<readonly Removal[]>
  /** Ends when nothing is left of any deleted timeline of the tenant, which is named by id or by the name that it had. */
  waitForRemoval(tenant: string, options?: WaitOptions): Promise<void>
  getTimeline(tenant: string, timeline?: string): Promise<GetTimelineResponse>
  /** Polls until the timeline's Postgres takes SQL; gives its connection string. */
  waitForSql(tenant: string, options?: WaitOptions): Promise<string>
  /** Asks for the switch and returns at once. */
  switchFullPageWrites(tenant: string, wanted: 'on' | 'off'): Promise<FpwView>
  getFullPageWrites(tenant: string): Promise<FpwView>
  /** Where the switch stands, and again at every change, until it is left or cancelled. */
  watchFullPageWrites(
    tenant: string,
    options?: { readonly signal?: AbortSignal },
  ): AsyncGenerator<FpwView, void, void>
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
  /** Begins a change and returns at once; the same one again is no other. */
  changeSafekeepers(tenant: string, wish: SafekeeperWish): Promise<SafekeepersView>
  /** Gives up the change that is under way; refused `precondition` where it is too late. */
  cancelSafekeeperChange(tenant: string, timeline?: string): Promise<SafekeepersView>
  /**
   * Makes `node` the only safekeeper that counts, where the majority is lost for good: commits that it does not have are
   * lost. Without a node none is left, and others go on with what the object store has. Refused `precondition` while
   * there is more to go on with.
   */
  recoverSafekeepers(
    tenant: string,
    wish: { readonly timeline?: string; readonly node?: string; readonly acceptLostCommits: boolean },
  ): Promise<SafekeepersView>
  getSafekeepers(tenant: string, timeline?: string): Promise<SafekeepersView>
  /** Ends when the last change is done; throws `timeout` with the reason where it does not get there. */
  waitForSafekeepers(
    tenant: string,
    timeline?: string,
    options?: WaitOptions & { readonly onStep?: (view: SafekeepersView) => void },
  ): Promise<SafekeepersView>
  listNodes(): Promise<readonly Node[]>
  /** One block of a relation as it was at an LSN: 8,192 bytes, or undefined where none was written yet. */
  getPage(tenant: string, page: PageAddress, options?: GetPagesOptions): Promise<Buffer | undefined>
  /** Many at once, in the order asked for. */
  getPages(
    tenant: string,
    pages: readonly PageAddress[],
    options?: GetPagesOptions,
  ): Promise<(Buffer | undefined)[]>
  /** Committed WAL as it comes. Leaving the loop ends it. */
  tailWal(tenant: string, options?: WalTailOptions): AsyncGenerator<WalPiece, void, void>
  /** Closes the connections; calls under way are cancelled. */
  close(): void
}

export interface DeleteOptions {
  /** End its compute, where it has one; false by default. */
  readonly stopCompute?: boolean
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

const lsnText = (position: bigint): string => formatLsn(lsnFromBigint(position))

function safekeepersOf(status: SafekeepersStatus | undefined): SafekeepersView {
  if (status === undefined) throw refuse('unavailable', 'the control plane answered without a status')
  const { membership, safekeepers, change } = status
  return {
    generation: Number(membership?.generation ?? 0n),
    safekeepers: safekeepers.map((item) => ({
      node: item.nodeId,
      role: item.role as SafekeepersView['safekeepers'][number]['role'],
      alive: item.alive,
      generation: Number(item.membershipGeneration),
      flushLsn: lsnText(item.flushLsn),
      commitLsn: lsnText(item.commitLsn),
      failure: item.failure,
    })),
    change:
      change === undefined
        ? undefined
        : {
            number: Number(change.number),
            add: change.add,
            remove: change.remove,
            reason: change.reason as SafekeeperChangeView['reason'],
            steps: change.steps.map(({ name, done, tookMs }) => ({ name, done, tookMs: Number(tookMs) })),
            done: change.done,
            cancelled: change.cancelled,
            problem: change.problem,
            tookMs: Number(change.tookMs),
            pulledLsn: lsnText(change.pulledLsn),
            pullGoalLsn: lsnText(change.pullGoalLsn),
          },
  }
}

function given<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw refuse('unavailable', `the control plane answered without ${what}`)
  return value
}

export function createClient(options: ClientOptions): UnderstoryClient {
  const { token, tls, retries = RETRIES_DEFAULT } = options
  const security: ClientSecurity | undefined =
    token === undefined && tls === undefined ? undefined : { token, tls }
  const client = createRpcClient(ControlPlaneServiceClient, options.endpoint, security)
  const call: CallOptions = {
    peer: `the control plane at ${options.endpoint}`,
    ...(options.deadlineMs === undefined ? {} : { deadlineMs: options.deadlineMs }),
  }
  // Every unary call here is a read, or a change that a second call does not make twice.
  const callUnary: typeof callOnce = (method, request, how) =>
    retrying(retries, how?.signal, () => callOnce(method, request, how))

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

    async deleteTenant(tenant, { stopCompute = false } = {}) {
      await callUnary(client.deleteTenant.bind(client), { tenant, stopCompute }, call)
    },

    async deleteTimeline(tenant, timeline, { stopCompute = false } = {}) {
      await callUnary(client.deleteTimeline.bind(client), { tenant, timeline, stopCompute }, call)
    },

    async listRemovals() {
      return (await callUnary(client.listRemovals.bind(client), {}, call)).removals
    },

    async waitForRemoval(tenant, wait = {}) {
      await poll(wait, `tenant "${tenant}" to be removed`, async () => {
        const left = (await this.listRemovals()).filter(
          ({ timeline, tenantName }) => tenantName === tenant || timeline?.tenantId === tenant,
        )
        if (left.length === 0) return true
        const reasons = left.map(({ waitsFor, problem }) => problem || `waits for ${waitsFor.join(', ')}`)
        throw refuse('unavailable', reasons.join('; '))
      })
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

    async *watchFullPageWrites(tenant, { signal } = {}) {
      const watch = client.watchFullPageWrites.bind(client)
      for await (const { status } of callServerStream(
        watch,
        { tenant },
        { ...call, deadlineMs: Infinity, signal },
      ))
        yield viewOf(status)
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

    async changeSafekeepers(tenant, { timeline = '', add = [], remove = [] }) {
      const request = { tenant, timeline, add: [...add], remove: [...remove] }
      return safekeepersOf((await callUnary(client.changeSafekeepers.bind(client), request, call)).status)
    },

    async cancelSafekeeperChange(tenant, timeline = '') {
      return safekeepersOf(
        (await callUnary(client.cancelSafekeeperChange.bind(client), { tenant, timeline }, call)).status,
      )
    },

    async recoverSafekeepers(tenant, { timeline = '', node = '', acceptLostCommits }) {
      const request = { tenant, timeline, nodeId: node, acceptLostCommits, fromObjectStore: node === '' }
      return safekeepersOf((await callUnary(client.recoverSafekeepers.bind(client), request, call)).status)
    },

    async getSafekeepers(tenant, timeline = '') {
      return safekeepersOf(
        (await callUnary(client.getSafekeepers.bind(client), { tenant, timeline }, call)).status,
      )
    },

    async waitForSafekeepers(tenant, timeline = '', wait = {}) {
      let problem = ''
      try {
        return await poll(wait, `the safekeepers of tenant "${tenant}" to change`, async () => {
          const view = await this.getSafekeepers(tenant, timeline)
          wait.onStep?.(view)
          problem = view.change?.problem ?? ''
          return view.change === undefined || view.change.done ? view : undefined
        })
      } catch (cause) {
        if (problem === '' || !(cause instanceof UnderstoryError) || cause.code !== 'timeout') throw cause
        throw refuse('timeout', cause.message, { detail: problem, cause })
      }
    },

    async listNodes() {
      return (await callUnary(client.listNodes.bind(client), {}, call)).nodes
    },

    async getPage(tenant, page, how) {
      const [found] = await this.getPages(tenant, [page], how)
      return found
    },

    async getPages(tenant, pages, how = {}) {
      return retrying(retries, how.signal, async () =>
        readPages(await this.getTimeline(tenant, how.timeline), pages, how, security),
      )
    },

    tailWal(tenant, how = {}) {
      return tail(() => this.getTimeline(tenant, how.timeline), how, security)
    },

    close: () => client.close(),
    [Symbol.dispose]: () => client.close(),
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
