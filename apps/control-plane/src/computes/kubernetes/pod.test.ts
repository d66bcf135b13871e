// Goal: a timeline has one pod, replaced when it ended and never started again. Method: tables of pods.
import { expect, test } from 'vitest'
import { NUMBER_LABEL, PROXY_CONTAINER, endOf, hostOf, planPods, problemOf } from './pod.ts'
import type { Pod } from './pod.ts'

const NOW_MS = Date.parse('2026-01-01T00:01:00Z')

const pod = (number: number, phase: string, deletionTimestamp?: string): Pod => ({
  metadata: {
    name: `c-${number}`,
    labels: { [NUMBER_LABEL]: String(number) },
    ...(deletionTimestamp === undefined ? {} : { deletionTimestamp }),
  },
  status: { phase },
})
const names = (pods: readonly Pod[]): string[] => pods.map(({ metadata }) => metadata.name)

test('the first pod of a timeline has number 1', () => {
  expect(planPods([], NOW_MS)).toEqual({ surplus: [], next: { kind: 'create', number: 1 } })
})

test.each(['Succeeded', 'Failed'])('one that has %s is removed, and the next number made', (phase) => {
  const { surplus, next } = planPods([pod(4, phase)], NOW_MS)
  expect(names(surplus)).toEqual(['c-4'])
  expect(next).toEqual({ kind: 'create', number: 5 })
})

test('one whose Postgres has ended is replaced at once, though its sidecar still runs', () => {
  const { metadata } = pod(4, 'Running')
  const containerStatuses = [{ name: 'postgres', state: { terminated: { exitCode: 137 } } }]
  const { surplus, next } = planPods([{ metadata, status: { phase: 'Running', containerStatuses } }], NOW_MS)
  expect(names(surplus)).toEqual(['c-4'])
  expect(next).toEqual({ kind: 'create', number: 5 })
})

test('of several that run the newest counts, in any order', () => {
  const { surplus, next } = planPods([pod(3, 'Running'), pod(10, 'Pending'), pod(2, 'Running')], NOW_MS)
  expect(next).toMatchObject({ kind: 'use', pod: { metadata: { name: 'c-10' } } })
  expect(names(surplus)).toEqual(['c-2', 'c-3'])
})

test('one that is ending is waited for until it must be gone', () => {
  const ending = pod(1, 'Running', '2026-01-01T00:00:55Z')
  expect(planPods([ending], NOW_MS).next).toEqual({ kind: 'wait', name: 'c-1' })
  expect(planPods([ending], NOW_MS + 6_000).next).toEqual({ kind: 'create', number: 2 })
  expect(planPods([ending], NOW_MS).surplus).toEqual([])
})

test('a silent pod is abandoned where its node is away, also while it is being deleted', () => {
  const onNode = (ready: string, deletionTimestamp?: string): Pod => {
    const conditions = [
      { type: 'Ready', status: ready },
      { type: 'ContainersReady', status: 'True' },
    ]
    return { ...pod(1, 'Running', deletionTimestamp), status: { phase: 'Running', conditions } }
  }
  const [silent, heard] = [() => true, () => false]
  expect(planPods([onNode('False')], NOW_MS, silent).next).toEqual({ kind: 'create', number: 2 })
  expect(names(planPods([onNode('False')], NOW_MS, silent).surplus)).toEqual(['c-1'])
  expect(planPods([onNode('False')], NOW_MS, heard).next.kind).toBe('use')
  expect(planPods([onNode('True')], NOW_MS, silent).next.kind).toBe('use')
  expect(planPods([onNode('False', '2026-01-01T00:00:55Z')], NOW_MS, silent).next.kind).toBe('create')
  expect(planPods([onNode('True', '2026-01-01T00:00:55Z')], NOW_MS, silent).next.kind).toBe('wait')
})

test('one that has ended and is being deleted is not waited for', () => {
  expect(planPods([pod(1, 'Failed', '2026-01-01T00:00:55Z')], NOW_MS).next.kind).toBe('create')
})

test('a pod is asked once its proxy runs, not before', () => {
  const status = { podIP: '10.0.0.7', initContainerStatuses: [{ name: PROXY_CONTAINER, state: {} }] }
  expect(hostOf({ metadata: { name: 'c' }, status })).toBeUndefined()
  const running = { ...status, initContainerStatuses: [{ name: PROXY_CONTAINER, state: { running: {} } }] }
  expect(hostOf({ metadata: { name: 'c' }, status: running })).toBe('10.0.0.7')
})

test('a cause that keeps a pod from running is reported, one that passes by itself is not', () => {
  const waiting = (reason: string): Pod => ({
    metadata: { name: 'c' },
    status: { containerStatuses: [{ name: 'postgres', state: { waiting: { reason, message: 'x' } } }] },
  })
  expect(problemOf(waiting('PodInitializing'), NOW_MS)).toBeUndefined()
  expect(problemOf(waiting('ErrImagePull'), NOW_MS)).toBe(
    'container "postgres" of pod "c" waits: ErrImagePull: x',
  )
})

test('of a container that ends again and again, the last words are reported', () => {
  const state = { waiting: { reason: 'CrashLoopBackOff', message: 'back-off 10s' } }
  const terminated = { exitCode: 1, reason: 'Error', message: 'started\nunderstory: no room\n' }
  const status = { initContainerStatuses: [{ name: 'compute-proxy', state, lastState: { terminated } }] }
  expect(problemOf({ metadata: { name: 'c' }, status }, NOW_MS)).toBe(
    'container "compute-proxy" of pod "c" waits: CrashLoopBackOff: Error (exit code 1): understory: no room',
  )
  // The kubelet leaves a sidecar so for a while; another container that has ended is done.
  const killed = (name: string): Pod => {
    const initContainerStatuses = [{ name, state: { terminated: { exitCode: 137, reason: 'OOMKilled' } } }]
    return { metadata: { name: 'c' }, status: { initContainerStatuses } }
  }
  expect(problemOf(killed('compute-proxy'), NOW_MS)).toBe(
    'container "compute-proxy" of pod "c" waits: OOMKilled (exit code 137)',
  )
  expect(problemOf(killed('initdb'), NOW_MS)).toBeUndefined()
  const ended = { phase: 'Failed', initContainerStatuses: [{ name: 'compute-proxy', state: { terminated } }] }
  expect(endOf({ metadata: { name: 'c' }, status: ended })).toBe(
    'Failed, compute-proxy Error (exit code 1): understory: no room',
  )
})

test('of a pod that does not begin for long, events say more; one that works for long is left alone', () => {
  const since = (creationTimestamp: string, state: object): Pod => ({
    metadata: { name: 'c', creationTimestamp },
    status: { phase: 'Pending', initContainerStatuses: [{ name: 'initdb', state }] },
  })
  const waiting = { waiting: { reason: 'PodInitializing' } }
  expect(problemOf(since('2026-01-01T00:00:31Z', waiting), NOW_MS)).toBeUndefined()
  expect(problemOf(since('2026-01-01T00:00:30Z', waiting), NOW_MS)).toContain('kubectl describe pod c')
  expect(problemOf(since('2026-01-01T00:00:30Z', { running: {} }), NOW_MS)).toBeUndefined()
})

test('how a pod ended names its containers', () => {
  const status = {
    phase: 'Failed',
    containerStatuses: [{ name: 'postgres', state: { terminated: { exitCode: 137, reason: 'OOMKilled' } } }],
  }
  expect(endOf({ metadata: { name: 'c' }, status })).toBe('Failed, postgres OOMKilled (exit code 137)')
})
