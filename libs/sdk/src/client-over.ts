/** What `UnderstoryClient` promises, by calls to the control plane and what it names. */
import { isDeepStrictEqual } from 'node:util'
import { isErrorCode, fail } from '@understory/base'
import type { ErrorCode } from '@understory/base'
import { ControlPlaneServiceClient } from '@understory/rpc'
import type { CallOptions, UnderstoryClient } from './api.ts'
import {
  readBoolean,
  readName,
  readNames,
  readOneOf,
  readOptions,
  readPassword,
  readSettings,
  readSignal,
  readText,
  readTimeline,
  readTraceparent,
  readWholeNumber,
} from './arguments.ts'
import { Calls } from './calls.ts'
import type { Try, UnaryMethod } from './calls.ts'
import { readPages, readQuestions } from './pages.ts'
import { computeLine, connectionStringWith, fpwView, given, safekeepersView } from './views.ts'
import type { FpwView } from './views.ts'
import { waitFor } from './wait.ts'
import { tail } from './wal-tail.ts'
import { fpwStates, watchFullPageWrites } from './watch.ts'

export function clientOver(calls: Calls): UnderstoryClient {
  const control = (): ControlPlaneServiceClient => calls.to(ControlPlaneServiceClient)

  type Control = ControlPlaneServiceClient
  const askOnce = <Q, S>(method: (to: Control) => UnaryMethod<Q, S>, request: Q, one: Omit<Try, 'attempt'>) =>
    calls.once(method(control()), request, one)
  /** Every one is a read, or a change that a second call does not make twice. */
  const ask = <Q, S>(method: (to: Control) => UnaryMethod<Q, S>, request: Q, how: CallOptions | undefined) =>
    calls.retrying(how, (one) => askOnce(method, request, one))

  /** A deletion whose answer was lost is not found when it is asked for again: it was done. */
  const deleting = (how: CallOptions, gone: ErrorCode, run: (one: Try) => Promise<unknown>): Promise<void> =>
    calls.retrying(how, async (one) => {
      await run(one).catch((error: unknown) => {
        if (one.attempt === 0 || !isErrorCode(error, gone)) throw error
      })
    })

  const client: UnderstoryClient = {
    async createTenant(tenant, how) {
      const wanted = readOptions('tenant', tenant)
      const number = (
        field: 'postgresMajor' | 'shardCount' | 'stripeBlocks' | 'imageThresholdRecords' | 'sqlPort',
      ) => (wanted[field] === undefined ? 0 : readWholeNumber(field, wanted[field]))
      const answer = await ask(
        (to) => to.createTenant.bind(to),
        {
          name: readName('tenant', wanted.name),
          postgresMajor: number('postgresMajor'),
          shardCount: number('shardCount'),
          stripeBlocks: number('stripeBlocks'),
          imageThresholdRecords: number('imageThresholdRecords'),
          settings: readSettings(wanted.settings),
          sqlPort: number('sqlPort'),
          ...readPassword(wanted),
          allowPlaintext: readBoolean('allowPlaintext', wanted.allowPlaintext ?? false),
          requestId:
            wanted.requestId === undefined ? crypto.randomUUID() : readName('requestId', wanted.requestId),
        },
        how,
      )
      return {
        tenant: given(answer.tenant, 'a tenant'),
        timeline: given(answer.timeline, 'a timeline'),
        password: answer.password || undefined,
      }
    },

    async setTenantPassword(tenant, how = {}) {
      const request = { tenant: readName('tenant', tenant), ...readPassword(readOptions('options', how)) }
      return (await ask((to) => to.setTenantPassword.bind(to), request, how)).password || undefined
    },

    async waitForPassword(tenant, wait) {
      const request = { tenant: readName('tenant', tenant), timeline: '' }
      await waitFor(calls, wait, `Postgres of tenant "${tenant}" to take its password`, async (one) => {
        const { compute, passwordPending } = await askOnce((to) => to.getTimeline.bind(to), request, one)
        one.because(computeLine(compute?.state, 0))
        return passwordPending ? undefined : true
      })
    },

    async *listTenants(how) {
      let pageToken = ''
      do {
        const page = await ask((to) => to.listTenants.bind(to), { pageSize: 0, pageToken }, how)
        yield* page.tenants
        pageToken = page.nextPageToken
      } while (pageToken !== '')
    },

    async getTenant(tenant, how) {
      const request = { tenant: readName('tenant', tenant) }
      return given((await ask((to) => to.getTenant.bind(to), request, how)).tenant, 'a tenant')
    },

    async deleteTenant(tenant, how = {}) {
      const { stopCompute = false } = readOptions('options', how)
      const request = {
        tenant: readName('tenant', tenant),
        stopCompute: readBoolean('stopCompute', stopCompute),
      }
      await deleting(how, 'unknown_tenant', (one) => askOnce((to) => to.deleteTenant.bind(to), request, one))
    },

    async listTimelines(tenant, how) {
      const request = { tenant: readName('tenant', tenant) }
      return (await ask((to) => to.listTimelines.bind(to), request, how)).timelines
    },

    async deleteTimeline(tenant, timeline, how = {}) {
      const { stopCompute = false } = readOptions('options', how)
      const request = {
        tenant: readName('tenant', tenant),
        timeline: readName('timeline', timeline),
        stopCompute: readBoolean('stopCompute', stopCompute),
      }
      await deleting(how, 'unknown_timeline', (one) =>
        askOnce((to) => to.deleteTimeline.bind(to), request, one),
      )
    },

    async listRemovals(how) {
      return (await ask((to) => to.listRemovals.bind(to), {}, how)).removals
    },

    async waitForRemoval(tenant, wait) {
      const name = readName('tenant', tenant)
      let last = ''
      await waitFor(calls, wait, `tenant "${name}" to be removed`, async ({ because, ...one }) => {
        const { removals } = await askOnce((to) => to.listRemovals.bind(to), {}, one)
        const left = removals.filter(
          ({ timeline, tenantName }) => tenantName === name || timeline?.tenantId === name,
        )
        if (left.length === 0) return true
        const reasons = left.map(({ waitsFor, problem }) => problem || `waits for ${waitsFor.join(', ')}`)
        const line = reasons.join('; ')
        because(line)
        if (line !== last) wait?.onProgress?.(line)
        last = line
        return undefined
      })
    },

    async getTimeline(tenant, timeline, how) {
      const request = { tenant: readName('tenant', tenant), timeline: readTimeline(timeline) }
      return ask((to) => to.getTimeline.bind(to), request, how)
    },

    async waitForSql(tenant, wait) {
      const request = { tenant: readName('tenant', tenant), timeline: '' }
      const password = readText('password', readOptions('options', wait).password)
      let last = ''
      return waitFor(
        calls,
        wait,
        `Postgres of tenant "${tenant}" to take SQL`,
        async ({ because, ...one }) => {
          const { compute } = await askOnce((to) => to.getTimeline.bind(to), request, one)
          const line = compute?.failure || computeLine(compute?.state, compute?.progressPercent)
          because(line)
          if (compute?.failureIsLasting === true) {
            throw fail('precondition', `Postgres of tenant "${tenant}" does not come up: ${line}`, {
              detail: 'it is tried again all the same',
            })
          }
          if (line !== last) wait?.onProgress?.(line)
          last = line
          return connectionStringWith(compute?.connectionString, password)
        },
      )
    },

    async switchFullPageWrites(tenant, wanted, how) {
      const on = readOneOf('full_page_writes', wanted, ['on', 'off']) === 'on'
      const request = { tenant: readName('tenant', tenant), on }
      return fpwView((await ask((to) => to.switchFullPageWrites.bind(to), request, how)).status)
    },

    async getFullPageWrites(tenant, how) {
      const request = { tenant: readName('tenant', tenant) }
      return fpwView((await ask((to) => to.getFullPageWrites.bind(to), request, how)).status)
    },

    async *watchFullPageWrites(tenant, watch) {
      yield* watchFullPageWrites(calls, readName('tenant', tenant), readOptions('options', watch ?? {}))
    },

    async waitForFullPageWrites(tenant, wait) {
      const name = readName('tenant', tenant)
      let last: FpwView | undefined
      return waitFor(calls, wait, `full_page_writes of tenant "${name}" to switch`, async (waiting) => {
        for await (const view of fpwStates(calls, name, waiting.signal)) {
          if (!isDeepStrictEqual(view, last)) wait?.onStep?.((last = view))
          if (view.phase === view.wanted) return view
          waiting.because(view.problem)
        }
        return undefined
      })
    },

    async verifyTimeline(tenant, timeline, how) {
      const { signal, onProgress } = readOptions('options', how ?? {})
      const request = { tenant: readName('tenant', tenant), timeline: readTimeline(timeline) }
      const verify = calls.stream(control().verifyTenantTimeline.bind(control()), request, {
        signal: readSignal(signal),
      })
      for await (const { progress } of verify) {
        if (progress?.result !== undefined) return progress.result
        onProgress?.({
          pagesDone: Number(progress?.pagesDone ?? 0n),
          pagesTotal: Number(progress?.pagesTotal ?? 0n),
        })
      }
      throw fail('unavailable', 'the verification ended without a result', { hint: 'Begin it again.' })
    },

    async changeSafekeepers(tenant, change, how) {
      const { timeline, add, remove } = readOptions('change', change)
      const request = {
        tenant: readName('tenant', tenant),
        timeline: readTimeline(timeline),
        add: readNames('add', add),
        remove: readNames('remove', remove),
      }
      return safekeepersView((await ask((to) => to.changeSafekeepers.bind(to), request, how)).status)
    },

    async cancelSafekeeperChange(tenant, timeline, how) {
      const request = { tenant: readName('tenant', tenant), timeline: readTimeline(timeline) }
      return safekeepersView((await ask((to) => to.cancelSafekeeperChange.bind(to), request, how)).status)
    },

    async recoverSafekeepers(tenant, recovery, how) {
      const { timeline, node, acceptLostCommits } = readOptions('recovery', recovery)
      const request = {
        tenant: readName('tenant', tenant),
        timeline: readTimeline(timeline),
        nodeId: node === undefined ? '' : readName('node', node),
        acceptLostCommits: readBoolean('acceptLostCommits', acceptLostCommits),
        fromObjectStore: node === undefined,
      }
      return safekeepersView((await ask((to) => to.recoverSafekeepers.bind(to), request, how)).status)
    },

    async getSafekeepers(tenant, timeline, how) {
      const request = { tenant: readName('tenant', tenant), timeline: readTimeline(timeline) }
      return safekeepersView((await ask((to) => to.getSafekeepers.bind(to), request, how)).status)
    },

    async waitForSafekeepers(tenant, timeline, wait) {
      const request = { tenant: readName('tenant', tenant), timeline: readTimeline(timeline) }
      const what = `the safekeepers of tenant "${tenant}" to change`
      return waitFor(calls, wait, what, async ({ because, ...one }) => {
        const view = safekeepersView((await askOnce((to) => to.getSafekeepers.bind(to), request, one)).status)
        wait?.onStep?.(view)
        because(view.change?.problem ?? '')
        return view.change === undefined || view.change.done ? view : undefined
      })
    },

    async listNodes(how) {
      return (await ask((to) => to.listNodes.bind(to), {}, how)).nodes
    },

    async getPage(tenant, page, how) {
      const [found] = await client.getPages(tenant, [page], how)
      return found
    },

    async getPages(tenant, pages, how = {}) {
      const request = {
        tenant: readName('tenant', tenant),
        timeline: readTimeline(readOptions('options', how).timeline),
      }
      const questions = readQuestions(pages, how)
      const traceparent = readTraceparent(how.traceparent)
      return calls.retrying(how, async (one) => {
        const startedAtMs = performance.now()
        const view = await askOnce((to) => to.getTimeline.bind(to), request, one)
        const deadlineMs = one.deadlineMs - (performance.now() - startedAtMs)
        return readPages(calls, view, questions, { ...one, deadlineMs, traceparent })
      })
    },

    async *tailWal(tenant, how = {}) {
      const request = {
        tenant: readName('tenant', tenant),
        timeline: readTimeline(readOptions('options', how).timeline),
      }
      const find = (one: Omit<Try, 'attempt'>) => askOnce((to) => to.getTimeline.bind(to), request, one)
      yield* tail(calls, find, how)
    },

    close: () => calls.close(),
    [Symbol.dispose]: () => calls.close(),
  }
  return client
}
