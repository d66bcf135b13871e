/** The gRPC face of the control plane: parse, call the domain, convert. */
import { lsnToBigint, parseLsn, present, fail } from '@understory/base'
import type { Clock } from '@understory/env'
import {
  ControlPlaneServiceService,
  FpwPhase,
  FullPageWrites,
  GetComputeStatusResponse,
  serverStream,
  service,
  unary,
} from '@understory/rpc'
import type {
  ControlPlaneServiceServer,
  FpwStatus,
  GetTimelineResponse,
  RpcService,
  SafekeeperView,
  Tenant,
  Timeline,
  TimelineRef,
} from '@understory/rpc'
import { computeSpecOf } from '../reconcile/compute-spec.ts'
import type { DeletionService } from '../reconcile/deletion-service.ts'
import type { SafekeeperService } from '../reconcile/safekeeper-service.ts'
import type { TenantService } from '../reconcile/tenant-service.ts'
import { MEMBER_AWAY, memberStatus } from '../clients/member-status.ts'
import { addressOf } from '../reconcile/membership-change.ts'
import type { Nodes } from '../documents/nodes.ts'
import { computeMissing } from '../clients/node-clients.ts'
import type { NodeClients } from '../clients/node-clients.ts'
import { safekeepersStatus } from './safekeepers-status.ts'
import { isPasswordPending } from '../documents/tenant-document.ts'
import { identityOf } from '../documents/timeline-document.ts'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { FpwState, TimelineDocument } from '../documents/timeline-document.ts'
import type { TimelineView } from '../reconcile/timeline-view.ts'

const DEFAULTS = { postgresMajor: 17, shardCount: 2, stripeBlocks: 256, imageThresholdRecords: 32 }
const PAGE_SIZE_DEFAULT = 100
const PAGE_SIZE_MAX = 1_000

const tenantOf = (document: TenantDocument): Tenant => ({
  tenantId: document.tenantId,
  name: document.name,
  postgresMajor: document.postgresMajor,
  shardCount: document.shardCount,
  stripeBlocks: document.stripeBlocks,
  imageThresholdRecords: document.imageThresholdRecords,
  createdAtS: BigInt(document.createdAtS),
})

const refOf = ({ tenantId, timelineId }: TimelineDocument): TimelineRef => ({ tenantId, timelineId })

const timelineOf = (timeline: TimelineDocument): Timeline => ({
  timeline: refOf(timeline),
  name: timeline.name,
  postgres: identityOf(timeline),
  startLsn: lsnToBigint(parseLsn(timeline.startLsn)),
})

const PHASES = {
  on: FpwPhase.FPW_PHASE_ON,
  switching_off: FpwPhase.FPW_PHASE_SWITCHING_OFF,
  off: FpwPhase.FPW_PHASE_OFF,
  switching_on: FpwPhase.FPW_PHASE_SWITCHING_ON,
} as const

const fpwOf = (state: FpwState): FpwStatus => ({
  wanted: state.wanted === 'on' ? FullPageWrites.FULL_PAGE_WRITES_ON : FullPageWrites.FULL_PAGE_WRITES_OFF,
  phase: PHASES[state.phase],
  sinceLsn: lsnToBigint(parseLsn(state.sinceLsn)),
  steps: state.steps.map(({ name, tookMs, done, lsn }) => ({
    name,
    done,
    tookMs: BigInt(tookMs),
    lsn: lsnToBigint(parseLsn(lsn)),
  })),
  problem: state.problem,
  generation: BigInt(state.generation),
  tookMs: BigInt(state.tookMs),
})

/** Of a compute that is not there yet, what is known of it. */
const computeWithout = (failure: string): GetComputeStatusResponse =>
  GetComputeStatusResponse.fromPartial({ failure })

/** It counts as open for SQL once its first password lets a client in. */
function computeOf(
  tenant: TenantDocument,
  timeline: TimelineDocument,
  { compute, problem }: TimelineView['observed'],
): GetComputeStatusResponse | undefined {
  if (compute === undefined) return problem === '' ? undefined : computeWithout(problem)
  const isWithoutPassword = timeline.passwordGeneration === 0 && isPasswordPending(tenant, timeline)
  return isWithoutPassword ? { ...compute, connectionString: '' } : compute
}

async function timelineResponse(
  clients: NodeClients,
  { tenant, timeline, observed }: TimelineView,
): Promise<GetTimelineResponse> {
  const safekeepers = await Promise.all(
    timeline.safekeeperNodes.map(async (node): Promise<SafekeeperView> => {
      const address = addressOf(timeline, node)
      const asked = address === '' ? undefined : clients.walStatus(address, refOf(timeline))
      const { alive, flushLsn, commitLsn, failure } =
        asked === undefined ? MEMBER_AWAY : await memberStatus(asked)
      return { address, alive, flushLsn, commitLsn, failure }
    }),
  )
  return {
    timeline: timelineOf(timeline),
    spec: computeSpecOf(tenant, timeline),
    compute: computeOf(tenant, timeline, observed),
    computeAddress: observed.computeAddress ?? '',
    safekeepers,
    shards: timeline.shards.map(({ node }, number) => ({
      number,
      address: addressOf(timeline, node),
      alive: observed.shards[number] !== undefined,
      ingestedLsn: observed.shards[number]?.ingestedLsn ?? 0n,
      remoteConsistentLsn: observed.shards[number]?.remoteConsistentLsn ?? 0n,
      failure: observed.shardProblems[number] ?? '',
    })),
    passwordPending: isPasswordPending(tenant, timeline),
  }
}

export interface ApiParts {
  readonly tenants: TenantService
  readonly safekeepers: SafekeeperService
  readonly deletions: DeletionService
  readonly nodes: Nodes
  readonly clients: NodeClients
  readonly clock: Clock
}

export function controlPlaneService(parts: ApiParts): RpcService {
  const { tenants, safekeepers, deletions, nodes, clients, clock } = parts
  return service<ControlPlaneServiceServer>(ControlPlaneServiceService, {
    createTenant: unary(async (request) => {
      const { document, password } = await tenants.create({
        name: request.name,
        postgresMajor: request.postgresMajor || DEFAULTS.postgresMajor,
        shardCount: request.shardCount || DEFAULTS.shardCount,
        stripeBlocks: request.stripeBlocks || DEFAULTS.stripeBlocks,
        imageThresholdRecords: request.imageThresholdRecords || DEFAULTS.imageThresholdRecords,
        settings: request.settings,
        sqlPort: request.sqlPort,
        requestId: request.requestId,
        allowsPlaintext: request.allowPlaintext,
        password: request.password,
        passwordVerifier: request.passwordVerifier,
      })
      return {
        tenant: tenantOf(document),
        timeline: {
          tenantId: document.tenantId,
          timelineId: present(document.timelines[0], 'timeline').timelineId,
        },
        password,
      }
    }),

    setTenantPassword: unary(async ({ tenant, ...request }) => ({
      password: await tenants.setPassword(tenant, request),
    })),

    // Documents are ordered by name; a page token is the last name of the page before.
    listTenants: unary(async ({ pageSize, pageToken }) => {
      const after = (await tenants.list()).filter(
        ({ name }) => pageToken === '' || name.localeCompare(pageToken) > 0,
      )
      const page = after.slice(0, Math.min(pageSize || PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX))
      return {
        tenants: page.map(tenantOf),
        nextPageToken: page.length < after.length ? (page.at(-1)?.name ?? '') : '',
      }
    }),

    getTenant: unary(async ({ tenant }) => ({ tenant: tenantOf(await tenants.find(tenant)) })),

    listTimelines: unary(async ({ tenant }) => {
      const timelines = await tenants.listTimelines(tenant)
      return { timelines: timelines.map(({ timeline }) => timelineOf(timeline)) }
    }),

    getTimeline: unary(async ({ tenant, timeline }) =>
      timelineResponse(clients, await tenants.view(tenant, timeline)),
    ),

    switchFullPageWrites: unary(async ({ tenant, on }) => ({
      status: fpwOf(await tenants.switchFpw(tenant, on ? 'on' : 'off')),
    })),

    getFullPageWrites: unary(async ({ tenant }) => ({
      status: fpwOf((await tenants.findTimeline(tenant, '')).timeline.fpw),
    })),

    watchFullPageWrites: serverStream(async function* ({ tenant }, { signal }) {
      for await (const state of tenants.watchFpw(tenant, signal)) yield { status: fpwOf(state) }
    }),

    verifyTenantTimeline: serverStream(async function* ({ tenant, timeline }, { signal }) {
      const { observed } = await tenants.view(tenant, timeline)
      if (observed.computeAddress === undefined) throw computeMissing()
      for await (const progress of clients.verifyTimeline(observed.computeAddress, signal)) yield { progress }
    }),

    changeSafekeepers: unary(async ({ tenant, timeline, add, remove }) => {
      const view = await safekeepers.change(tenant, timeline, { add, remove, reason: 'user' })
      return { status: await safekeepersStatus(view, clients, clock) }
    }),

    cancelSafekeeperChange: unary(async ({ tenant, timeline }) => {
      const view = await safekeepers.cancel(tenant, timeline)
      return { status: await safekeepersStatus(view, clients, clock) }
    }),

    recoverSafekeepers: unary(async ({ tenant, timeline, nodeId, acceptLostCommits, fromObjectStore }) => {
      if (fromObjectStore === (nodeId !== ''))
        throw fail('bad_argument', 'a recovery is either from a safekeeper or from the object store')
      if (!acceptLostCommits) {
        const source = fromObjectStore ? 'the object store' : `"${nodeId}"`
        throw fail('precondition', `commits that ${source} does not have would be lost`, {
          hint: `Say that you accept it, if ${fromObjectStore ? 'all' : 'the other'} safekeepers are gone for good.`,
        })
      }
      const view = fromObjectStore
        ? await safekeepers.recoverFromStore(tenant, timeline)
        : await safekeepers.recover(tenant, timeline, nodeId)
      return { status: await safekeepersStatus(view, clients, clock) }
    }),

    getSafekeepers: unary(async ({ tenant, timeline }) => ({
      status: await safekeepersStatus(await safekeepers.view(tenant, timeline), clients, clock),
    })),

    deleteTimeline: unary(async ({ tenant, timeline, stopCompute }) => {
      if (timeline === '') throw fail('bad_argument', 'the timeline is not named')
      await deletions.deleteTimeline(tenant, timeline, stopCompute)
      return {}
    }),

    deleteTenant: unary(async ({ tenant, stopCompute }) => {
      await deletions.deleteTenant(tenant, stopCompute)
      return {}
    }),

    listRemovals: unary(async () => ({
      removals: (await deletions.removals()).map(({ tenant, removal, waitsFor, problem }) => ({
        timeline: { tenantId: tenant.tenantId, timelineId: removal.timelineId },
        tenantName: tenant.name,
        timelineName: removal.name,
        waitsFor: [...waitsFor],
        problem,
      })),
    })),

    listNodes: unary(async () => ({ nodes: await nodes.list() })),
  })
}
