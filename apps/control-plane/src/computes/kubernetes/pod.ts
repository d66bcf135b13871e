/** The part of a pod that counts, and the plan that follows from the pods of a timeline: pure. */

interface ContainerStatus {
  readonly name: string
  readonly state?: {
    readonly running?: object
    readonly waiting?: { readonly reason?: string; readonly message?: string }
    readonly terminated?: Terminated
  }
  readonly lastState?: { readonly terminated?: Terminated }
}

interface Terminated {
  readonly exitCode: number
  readonly reason?: string
  /** The end of its log, where the container asks for that. */
  readonly message?: string
}

/** Of the Kubernetes API (v1 Pod), as far as it is used. */
export interface Pod {
  readonly metadata: {
    readonly name: string
    readonly labels?: Readonly<Record<string, string>>
    readonly annotations?: Readonly<Record<string, string>>
    readonly creationTimestamp?: string
    /** When it is killed, where its end was requested. */
    readonly deletionTimestamp?: string
  }
  readonly status?: {
    readonly phase?: string
    readonly reason?: string
    readonly podIP?: string
    readonly conditions?: readonly {
      readonly type: string
      readonly status: string
      readonly message?: string
    }[]
    readonly initContainerStatuses?: readonly ContainerStatus[]
    readonly containerStatuses?: readonly ContainerStatus[]
  }
}

export const TIMELINE_LABEL = 'understory/timeline'
export const TENANT_LABEL = 'understory/tenant'
export const NAME_LABEL = 'understory/timeline-name'
/** Grows with every pod of a timeline. */
export const NUMBER_LABEL = 'understory/number'
export const PROXY_CONTAINER = 'compute-proxy'

/** After the time at which a pod is killed at the latest. A node that is away never reports that it was. */
const GONE_GRACE_MS = 10_000

const numberOf = ({ metadata }: Pod): number => Number(metadata.labels?.[NUMBER_LABEL] ?? 0)

/** Once Postgres's container has ended, the rest of the pod only goes after it. */
const hasEnded = ({ status }: Pod): boolean =>
  status?.phase === 'Succeeded' ||
  status?.phase === 'Failed' ||
  status?.containerStatuses?.some(({ state }) => state?.terminated !== undefined) === true

/**
 * Whether its node is away. Of every pod there the node controller makes the condition Ready false and leaves
 * ContainersReady (kubernetes v1.33, pkg/controller/util/node/controller_utils.go, MarkPodsNotReady); a kubelet says
 * both alike.
 */
function isNodeAway({ status }: Pod): boolean {
  const is = (type: string): string | undefined =>
    status?.conditions?.find((condition) => condition.type === type)?.status
  return is('Ready') === 'False' && is('ContainersReady') === 'True'
}

export interface PodPlan {
  /** To be deleted: ended, older than the one that counts, or silent on a node that is away. */
  readonly surplus: readonly Pod[]
  /** `use`: this pod. `wait`: the one before has not ended yet. `create`: a new one under this number. */
  readonly next:
    | { readonly kind: 'use'; readonly pod: Pod }
    | { readonly kind: 'wait'; readonly name: string }
    | { readonly kind: 'create'; readonly number: number }
}

/**
 * A pod lives once: what ended is never started again (I4), and a new one takes its place. The newest counts; that an
 * older one may still run somewhere is harmless, because the newest has the higher term (I2). So a pod that `isSilent`,
 * not having answered for long, is not waited for where its node is away: Kubernetes itself would let five minutes
 * pass.
 */
export function planPods(
  pods: readonly Pod[],
  nowMs: number,
  isSilent: (pod: Pod) => boolean = () => false,
): PodPlan {
  const isLost = (pod: Pod): boolean => isNodeAway(pod) && isSilent(pod)
  const byNumber = pods.toSorted((a, b) => numberOf(a) - numberOf(b))
  const staying = byNumber.filter(({ metadata }) => metadata.deletionTimestamp === undefined)
  const newest = staying.filter((pod) => !hasEnded(pod) && !isLost(pod)).at(-1)
  const surplus = staying.filter((pod) => pod !== newest)
  if (newest !== undefined) return { surplus, next: { kind: 'use', pod: newest } }
  const leaving = byNumber.find(
    (pod) =>
      !hasEnded(pod) &&
      !isLost(pod) &&
      pod.metadata.deletionTimestamp !== undefined &&
      nowMs < Date.parse(pod.metadata.deletionTimestamp) + GONE_GRACE_MS,
  )
  if (leaving !== undefined) return { surplus, next: { kind: 'wait', name: leaving.metadata.name } }
  return { surplus, next: { kind: 'create', number: Math.max(0, ...pods.map(numberOf)) + 1 } }
}

/** Where its compute-proxy answers, once it runs. */
export function hostOf({ status }: Pod): string | undefined {
  const proxy = status?.initContainerStatuses?.find(({ name }) => name === PROXY_CONTAINER)
  return proxy?.state?.running === undefined ? undefined : status?.podIP
}

/** Reasons of a waiting container that pass by themselves. */
const PASSING = ['PodInitializing', 'ContainerCreating']

/** A container that takes longer lacks something that only events show: a secret, a volume, a large image. */
const SLOW_MS = 30_000

const lastLineOf = (text: string | undefined): string | undefined => text?.trim().split('\n').at(-1)

function describeEnd({ reason = '', exitCode, message }: Terminated): string {
  const line = lastLineOf(message)
  return `${reason} (exit code ${exitCode})${line ? `: ${line}` : ''}`
}

/** The cause that keeps a pod from running, in one line; undefined where none is known. */
export function problemOf({ metadata, status }: Pod, nowMs: number): string | undefined {
  const unscheduled = status?.conditions?.find(
    ({ type, status: is }) => type === 'PodScheduled' && is === 'False',
  )
  if (unscheduled !== undefined) return `pod "${metadata.name}" has no node: ${unscheduled.message ?? ''}`
  for (const { name, state, lastState } of [
    ...(status?.initContainerStatuses ?? []),
    ...(status?.containerStatuses ?? []),
  ]) {
    const { reason, message } = state?.waiting ?? {}
    // A sidecar that has ended is started again, after longer and longer pauses.
    const isEnded = name === PROXY_CONTAINER && state?.terminated !== undefined
    if (!isEnded && (reason === undefined || PASSING.includes(reason))) continue
    const before = state?.terminated ?? lastState?.terminated
    const end = before === undefined ? undefined : describeEnd(before)
    const why = [reason, end ?? message].filter(Boolean).join(': ')
    return `container "${name}" of pod "${metadata.name}" waits: ${why}`
  }
  const isBegun = status?.initContainerStatuses?.some(({ state }) => state?.waiting === undefined) === true
  const { creationTimestamp } = metadata
  if (!isBegun && creationTimestamp !== undefined && nowMs >= Date.parse(creationTimestamp) + SLOW_MS)
    return `pod "${metadata.name}" has not begun in ${SLOW_MS / 1_000} s: see \`kubectl describe pod ${metadata.name}\``
  return undefined
}

/** How a pod ended, in one line. */
export function endOf(pod: Pod): string {
  const { status } = pod
  const ends = [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])].flatMap(
    ({ name, state }) =>
      state?.terminated === undefined ? [] : [`${name} ${describeEnd(state.terminated)}`],
  )
  return [status?.phase, status?.reason, isNodeAway(pod) ? 'its node is away' : undefined, ...ends]
    .filter((part) => part !== undefined && part !== '')
    .join(', ')
}
