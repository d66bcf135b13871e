/**
 * Computes as pods: one at a time for each timeline, made again whenever it ended. Nothing is remembered here: pods
 * carry their timeline and number as labels, so another control plane continues from them.
 */
import { isErrorCode, fail } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import type { ComputeSpec, Configuration, HostedCompute } from '@understory/rpc'
import { sendSpec } from '../compute-driver.ts'
import type { ComputeDriver, ComputePlace } from '../compute-driver.ts'
import type { NodeClients } from '../../clients/node-clients.ts'
import type { KubernetesApi } from './api.ts'
import {
  PROXY_PORT,
  SETTINGS_ANNOTATION,
  SQL_PORT,
  computePod,
  computeService,
  digestOf,
  serviceName,
} from './compute-pod.ts'
import type { Owner } from './compute-pod.ts'
import type { PodSettings } from './pod-settings.ts'
import { TIMELINE_LABEL, endOf, hostOf, planPods, problemOf } from './pod.ts'
import type { Pod, PodPlan } from './pod.ts'

/** All timelines share one look at the pods. */
const LOOK_MS = 250
/** Between pods of a timeline that do not last. */
const PAUSE_MIN_MS = 1_000
const PAUSE_MAX_MS = 30_000
const LASTED_MS = 60_000
/** Services that were deleted are made again after so long. */
const SERVICE_MS = 300_000

export interface KubernetesDriverParts {
  readonly api: KubernetesApi
  readonly settings: PodSettings
  readonly clients: NodeClients
  readonly clock: Clock
  readonly log: Log
}

interface Attempts {
  readonly atMs: number
  readonly pauseMs: number
}

export class KubernetesDriver implements ComputeDriver {
  readonly usesHosts = false
  readonly #parts: KubernetesDriverParts
  readonly #attempts = new Map<string, Attempts>()
  /** How the last pod of a timeline ended. */
  readonly #ends = new Map<string, string>()
  /** When the service of a timeline was last applied: since a start of this process it is as the settings say. */
  readonly #servedAtMs = new Map<string, number>()
  /** Since when the proxies of pods do not answer, by the pod's name. */
  readonly #silentSinceMs = new Map<string, number>()
  #look: { readonly pods: Promise<readonly Pod[]>; readonly atMs: number } | undefined
  #owner: Promise<Owner> | undefined

  constructor(parts: KubernetesDriverParts) {
    this.#parts = parts
  }

  async find(place: ComputePlace): Promise<HostedCompute | undefined> {
    const { next } = this.#plan(await this.#podsOf(place))
    const host = next.kind === 'use' ? hostOf(next.pod) : undefined
    if (host === undefined) return undefined
    return this.#parts.clients.hostedCompute(`${host}:${PROXY_PORT}`, place.timeline)
  }

  async ensure(
    place: ComputePlace,
    spec: ComputeSpec,
    configuration: Configuration | undefined,
  ): Promise<string> {
    const { clock, log } = this.#parts
    const { timelineId } = place.timeline
    await this.#ensureService(place)
    const { surplus, next } = this.#plan(await this.#podsOf(place))
    for (const pod of surplus) {
      const how = endOf(pod)
      log.info('compute_pod_removed', { pod: pod.metadata.name, how })
      this.#ends.set(timelineId, `pod "${pod.metadata.name}" has ended: ${how}`)
      await this.#change((api) => api.deletePod(pod.metadata.name))
    }
    if (next.kind === 'wait') return ''
    if (next.kind === 'create') {
      const isMade = await this.#create(place, spec, next.number)
      return isMade ? '' : (this.#ends.get(timelineId) ?? '')
    }
    const problem = problemOf(next.pod, clock.wallMs())
    if (problem !== undefined) {
      await this.#removeIfOutdated(next.pod, problem)
      return problem
    }
    const host = hostOf(next.pod)
    if (host !== undefined)
      await this.#sendSpec(next.pod, host, place, { ...spec, sqlPort: SQL_PORT }, configuration)
    return ''
  }

  /** The cause may lie in the settings of then: an image, a node selector, too small a limit. */
  async #removeIfOutdated({ metadata: { name, annotations } }: Pod, problem: string): Promise<void> {
    const { settings, log } = this.#parts
    if (annotations?.[SETTINGS_ANNOTATION] === digestOf(settings)) return
    log.info('compute_pod_outdated', { pod: name, problem })
    await this.#change((api) => api.deletePod(name))
  }

  async #sendSpec(
    { metadata: { name } }: Pod,
    host: string,
    { timeline }: ComputePlace,
    spec: ComputeSpec,
    configuration: Configuration | undefined,
  ): Promise<void> {
    const { clock, clients } = this.#parts
    try {
      await sendSpec(clients, `${host}:${PROXY_PORT}`, timeline, spec, configuration)
      this.#silentSinceMs.delete(name)
    } catch (error) {
      if (!this.#silentSinceMs.has(name)) this.#silentSinceMs.set(name, clock.nowMs())
      throw error
    }
  }

  #plan(pods: readonly Pod[]): PodPlan {
    const { clock, settings } = this.#parts
    // For so long without its safekeepers, a compute has ended its Postgres by itself.
    const fromMs = clock.nowMs() - settings.contactTimeoutMs
    return planPods(
      pods,
      clock.wallMs(),
      ({ metadata }) => (this.#silentSinceMs.get(metadata.name) ?? Infinity) <= fromMs,
    )
  }

  async remove(place: ComputePlace): Promise<void> {
    const { settings, api } = this.#parts
    const { timelineId } = place.timeline
    // Another tenant may have got the name in the meantime, and with it the service.
    await api.deleteService(
      serviceName(settings.namePrefix, place),
      (labels) => labels[TIMELINE_LABEL] === timelineId,
    )
    this.#servedAtMs.delete(timelineId)
    this.#ends.delete(timelineId)
    const pods = await this.#podsOf(place)
    for (const { metadata } of pods) {
      if (metadata.deletionTimestamp === undefined) await this.#change((api) => api.deletePod(metadata.name))
    }
    if (pods.length > 0) throw fail('unavailable', 'pods of the compute have not ended yet')
  }

  /** False where the one before was made so lately that this one has to wait. */
  async #create(place: ComputePlace, spec: ComputeSpec, number: number): Promise<boolean> {
    const { settings, clock, log } = this.#parts
    const { timelineId } = place.timeline
    const nowMs = clock.nowMs()
    const last = this.#attempts.get(timelineId)
    if (last !== undefined && nowMs - last.atMs < last.pauseMs) return false
    const isSoon = last !== undefined && nowMs - last.atMs < LASTED_MS
    const pauseMs = isSoon ? Math.min(last.pauseMs * 2, PAUSE_MAX_MS) : PAUSE_MIN_MS
    this.#attempts.set(timelineId, { atMs: nowMs, pauseMs })
    const pod = computePod(settings, place, spec, await this.#ownerOf(), number)
    try {
      await this.#change((api) => api.createPod(pod))
    } catch (error) {
      if (!isErrorCode(error, 'already_exists')) throw error
    }
    log.info('compute_pod_created', { timeline: timelineId, number })
    return true
  }

  async #ensureService(place: ComputePlace): Promise<void> {
    const { api, settings, clock } = this.#parts
    const { timelineId } = place.timeline
    const nowMs = clock.nowMs()
    if (nowMs - (this.#servedAtMs.get(timelineId) ?? -Infinity) < SERVICE_MS) return
    const manifest = computeService(settings, place, await this.#ownerOf())
    await api.applyService(serviceName(settings.namePrefix, place), manifest)
    this.#servedAtMs.set(timelineId, nowMs)
  }

  async #podsOf({ timeline }: ComputePlace): Promise<readonly Pod[]> {
    const pods = await this.#pods()
    return pods.filter(({ metadata }) => metadata.labels?.[TIMELINE_LABEL] === timeline.timelineId)
  }

  #pods(): Promise<readonly Pod[]> {
    const { api, settings, clock } = this.#parts
    const nowMs = clock.nowMs()
    if (this.#look !== undefined && nowMs - this.#look.atMs < LOOK_MS) return this.#look.pods
    const selector = Object.entries(settings.selectorLabels).map(([name, value]) => `${name}=${value}`)
    const pods = api.listPods([...selector, TIMELINE_LABEL].join(',')).then((found) => this.#keepOf(found))
    // A failed one is not kept: the next call looks again.
    pods.catch(() => {
      this.#look = undefined
    })
    this.#look = { pods, atMs: nowMs }
    return pods
  }

  /** Keeps of those that do not answer the ones that there are. */
  #keepOf(found: readonly Pod[]): readonly Pod[] {
    const names = new Set(found.map(({ metadata }) => metadata.name))
    for (const name of this.#silentSinceMs.keys()) if (!names.has(name)) this.#silentSinceMs.delete(name)
    return found
  }

  /** After a change what was seen before it is not true any more. */
  async #change(act: (api: KubernetesApi) => Promise<void>): Promise<void> {
    try {
      await act(this.#parts.api)
    } finally {
      this.#look = undefined
    }
  }

  #ownerOf(): Promise<Owner> {
    const { api, settings } = this.#parts
    const name = settings.ownerDeployment
    this.#owner ??= api
      .deploymentUid(name)
      .then((uid) => ({ apiVersion: 'apps/v1', kind: 'Deployment', name, uid }))
    this.#owner.catch(() => {
      this.#owner = undefined
    })
    return this.#owner
  }
}
