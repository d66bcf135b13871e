// Goal: a compute on a node that is away gets a new pod soon, one that merely does not answer keeps its pod, and the
// cause that keeps one from coming up is reported. Method: the driver over a list of pods and a clock that the test
// turns.
import { fail } from '@understory/base'
import { jsonLog, realClock } from '@understory/env'
import type { ComputeSpec } from '@understory/rpc'
import { expect, test } from 'vitest'
import type { ComputePlace } from '../compute-driver.ts'
import type { NodeClients } from '../../clients/node-clients.ts'
import { SETTINGS_ANNOTATION, digestOf } from './compute-pod.ts'
import { KubernetesDriver } from './kubernetes-driver.ts'
import type { PodSettings } from './pod-settings.ts'
import { NUMBER_LABEL, PROXY_CONTAINER, TIMELINE_LABEL } from './pod.ts'
import type { Pod } from './pod.ts'
import { SETTINGS } from '../../../test/pod-settings.ts'

const TIMELINE_ID = 'b'.repeat(32)
const PLACE: ComputePlace = {
  tenantName: 'shop',
  timelineName: 'main',
  timeline: { tenantId: 'a'.repeat(32), timelineId: TIMELINE_ID },
  hostAddress: undefined,
}
const SPEC = { timeline: PLACE.timeline, postgresMajor: 17, bootstrap: false } as ComputeSpec

function world() {
  let nowMs = 0
  let ready = 'True'
  let phase = 'Running'
  let serviceOf = TIMELINE_ID
  let waiting: string | undefined
  let annotations: Readonly<Record<string, string>> = {}
  const done: string[] = []
  const applied: string[] = []
  const labels = { [TIMELINE_LABEL]: TIMELINE_ID, [NUMBER_LABEL]: '1' }
  const pods = (): readonly Pod[] => [
    {
      metadata: {
        name: 'c-1',
        labels,
        annotations,
        ...(done.includes('delete c-1') ? { deletionTimestamp: '2100-01-01' } : {}),
      },
      status: {
        phase,
        ...(phase === 'Failed' ? { reason: 'Evicted' } : {}),
        podIP: '10.0.0.7',
        conditions: [
          { type: 'Ready', status: ready },
          { type: 'ContainersReady', status: 'True' },
        ],
        initContainerStatuses: [{ name: PROXY_CONTAINER, state: { running: {} } }],
        ...(waiting === undefined
          ? {}
          : { containerStatuses: [{ name: 'postgres', state: { waiting: { reason: waiting } } }] }),
      },
    },
  ]
  const away = { hostedCompute: () => Promise.reject(fail('unavailable', 'no answer')) }
  const driver = new KubernetesDriver({
    api: {
      listPods: () => Promise.resolve(pods()),
      deletePod: (name) => Promise.resolve(void done.push(`delete ${name}`)),
      createPod: (manifest) => {
        const { metadata } = manifest as { metadata: { name: string } }
        return Promise.resolve(void done.push(`create ${metadata.name}`))
      },
      labelPod: () => Promise.resolve(),
      applyService: (name) => Promise.resolve(void applied.push(name)),
      deleteService: (name, hasLabels) => {
        const isOurs = hasLabels({ [TIMELINE_LABEL]: serviceOf })
        return Promise.resolve(void (isOurs && done.push(`delete service ${name}`)))
      },
      deploymentUid: () => Promise.resolve('u-1'),
    },
    settings: SETTINGS,
    clients: away as unknown as NodeClients,
    clock: { ...realClock, nowMs: () => nowMs, wallMs: () => Date.parse('2026-01-01T00:00:00Z') + nowMs },
    log: jsonLog({ write: () => undefined }),
  })
  return {
    done,
    applied,
    serviceIsOf: (timelineId: string) => (serviceOf = timelineId),
    remove: () => driver.remove(PLACE).catch(() => undefined),
    imageIsMissing: () => (waiting = 'ImagePullBackOff'),
    isMadeBy: (settings: PodSettings) => {
      annotations = { [SETTINGS_ANNOTATION]: digestOf(settings) }
    },
    podFails: () => (phase = 'Failed'),
    nodeGoesAway: () => (ready = 'False'),
    ensureAt: (atMs: number) => {
      nowMs = atMs
      return driver.ensure(PLACE, SPEC, undefined).catch(() => undefined)
    },
  }
}

test('a compute that does not answer for long, on a node that is away, is replaced without waiting for its end', async () => {
  const { done, ensureAt, nodeGoesAway } = world()
  nodeGoesAway()
  await ensureAt(1_000)
  await ensureAt(30_000)
  expect(done).toEqual([])
  await ensureAt(31_000)
  expect(done).toEqual(['delete c-1', 'create understory-compute-bbbbbbbbbb-2'])
})

test('one that does not answer for long keeps its pod as long as its node is there', async () => {
  const { done, ensureAt } = world()
  for (const atMs of [0, 30_000, 60_000, 600_000]) await ensureAt(atMs)
  expect(done).toEqual([])
})

test('a pod that cannot run is replaced once the settings have changed, and not before', async () => {
  const problem = 'container "postgres" of pod "c-1" waits: ImagePullBackOff'
  const { done, ensureAt, imageIsMissing, isMadeBy } = world()
  // A pod that runs is left alone, with any settings.
  await ensureAt(0)
  imageIsMissing()
  isMadeBy(SETTINGS)
  expect(await ensureAt(1_000)).toBe(problem)
  expect(done).toEqual([])
  isMadeBy({ ...SETTINGS, postgresImages: { ...SETTINGS.postgresImages, '17': 'postgres:71' } })
  expect(await ensureAt(2_000)).toBe(problem)
  expect(done).toEqual(['delete c-1'])
})

test('while the pod after one that ended is waited for, the end of that one is reported', async () => {
  const { done, ensureAt, podFails } = world()
  podFails()
  expect(await ensureAt(0)).toBe('')
  expect(await ensureAt(500)).toBe('pod "c-1" has ended: Failed, Evicted')
  expect(done).toEqual(['delete c-1', 'create understory-compute-bbbbbbbbbb-2'])
})

test('the service is applied at the start and again now and then, so that one that was deleted comes back', async () => {
  const { applied, ensureAt } = world()
  for (const atMs of [0, 1_000, 299_000, 301_000, 302_000]) await ensureAt(atMs)
  expect(applied).toEqual(['understory-pg-shop', 'understory-pg-shop'])
})

test('a removed compute takes its service along, but not that of a newer tenant of the same name', async () => {
  const own = world()
  await own.remove()
  expect(own.done).toEqual(['delete service understory-pg-shop', 'delete c-1'])
  const other = world()
  other.serviceIsOf('d'.repeat(32))
  await other.remove()
  expect(other.done).toEqual(['delete c-1'])
})
