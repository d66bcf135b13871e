/** One pod of each kind is killed under load, and its return is waited for. */
import { setTimeout as delay } from 'node:timers/promises'
import { fail } from '@understory/base'
import { kubectl, objects } from './programs.ts'
import type { Load } from './load.ts'
import type { Tools } from './programs.ts'

const POLL_MS = 250
const BACK_MS_MAX = 300_000

interface ContainerStatus {
  readonly name: string
  readonly restartCount: number
  readonly containerID?: string
}
interface Pod {
  readonly metadata: {
    readonly name: string
    readonly uid: string
    readonly labels: Readonly<Record<string, string>>
    readonly deletionTimestamp?: string
  }
  readonly spec: { readonly nodeName?: string }
  readonly status: {
    readonly phase: string
    readonly conditions?: readonly { readonly type: string; readonly status: string }[]
    readonly containerStatuses?: readonly ContainerStatus[]
  }
}

export interface KillResult {
  readonly what: string
  /** The longest wait for an acknowledgement around it. */
  readonly pauseMs: number
  /** Until the pods of its kind were ready again. */
  readonly backMs: number
}

const INSTANCE = 'app.kubernetes.io/instance=understory'
const COMPONENT = 'app.kubernetes.io/component'

const isReady = ({ metadata, status }: Pod): boolean =>
  metadata.deletionTimestamp === undefined &&
  status.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True') === true

const podsOf = (tools: Tools, component: string, more = ''): Promise<readonly Pod[]> =>
  objects<Pod>(tools, 'pods', '-l', `${INSTANCE},${COMPONENT}=${component}${more}`)

/**
 * Asked to end, and killed a second later. Not `--force`: that lets the next pod of a StatefulSet begin on the same
 * volume while this one still runs.
 */
export async function killPod(tools: Tools, load: Load, component: string, more = ''): Promise<KillResult> {
  const before = await podsOf(tools, component, more)
  const [victim] = before.filter(isReady)
  if (victim === undefined) throw fail('precondition', `no ${component} is ready`)
  return around(load, `pod of ${component}`, async () => {
    await kubectl(tools, 'delete', 'pod', victim.metadata.name, '--grace-period=1', '--wait=false')
    await untilBack(tools, component, more, before.filter(isReady).length, victim.metadata.uid)
  })
}

/** A clean end that uses up the pod's grace was cut off by Kubernetes, and so was not clean. */
const CLEAN_END_MS_MAX = 40_000

/** Asked to end with all the time that it has, as by `kubectl drain`: Postgres stops cleanly. */
export async function endPod(tools: Tools, load: Load, component: string, more = ''): Promise<KillResult> {
  const [victim] = (await podsOf(tools, component, more)).filter(isReady)
  if (victim === undefined) throw fail('precondition', `no ${component} is ready`)
  const result = await around(load, `pod of ${component}, cleanly`, async () => {
    await kubectl(tools, 'delete', 'pod', victim.metadata.name, '--wait=false')
    await untilBack(tools, component, more, 1, victim.metadata.uid)
  })
  if (result.backMs > CLEAN_END_MS_MAX)
    throw fail('timeout', `a clean end of ${component} took ${result.backMs} ms`)
  return result
}

/** Whether a node with pods of this release could be drained. Error: refused with what kubectl has against it. */
export async function checkDrain(tools: Tools): Promise<void> {
  const nodes = new Set(
    (await objects<Pod>(tools, 'pods', '-l', INSTANCE)).flatMap(({ spec }) => spec.nodeName ?? []),
  )
  const flags = ['--dry-run=server', '--ignore-daemonsets', '--delete-emptydir-data']
  for (const node of nodes) await kubectl(tools, 'drain', node, ...flags, `--pod-selector=${INSTANCE}`)
}

/** The container of Postgres alone, as an out-of-memory kill would: it must never run again on its old files (I4). */
export async function killPostgres(tools: Tools, load: Load, more: string): Promise<KillResult> {
  const [victim] = (await podsOf(tools, 'compute', more)).filter(isReady)
  if (victim === undefined) throw fail('precondition', 'no compute is ready')
  const { name, uid } = victim.metadata
  let seen: readonly ContainerStatus[] = []
  const result = await around(load, 'container of Postgres', async () => {
    const watching = watchContainer(tools, name, (statuses) => {
      seen = [...seen, ...statuses]
    })
    await kubectl(
      tools,
      'exec',
      name,
      '-c',
      'postgres',
      '--',
      'sh',
      '-c',
      'kill -9 $(cat /compute/answers/runner)',
    ).catch(
      // The command ends with its container.
      () => undefined,
    )
    await untilBack(tools, 'compute', more, 1, uid)
    await watching.stop()
  })
  const ids = new Set(seen.map(({ containerID }) => containerID))
  const restarts = Math.max(0, ...seen.map(({ restartCount }) => restartCount))
  if (ids.size > 1 || restarts > 0)
    throw fail('precondition', `the container of Postgres in ${name} was started again (${restarts} times)`)
  return result
}

function watchContainer(
  tools: Tools,
  pod: string,
  take: (statuses: readonly ContainerStatus[]) => void,
): { stop(): Promise<void> } {
  const over = new AbortController()
  const watching = (async () => {
    while (!over.signal.aborted) {
      const found = await objects<Pod>(tools, 'pods', `--field-selector=metadata.name=${pod}`)
      take(
        found
          .flatMap(({ status }) => status.containerStatuses ?? [])
          .filter(({ name }) => name === 'postgres'),
      )
      await delay(POLL_MS)
    }
  })()
  return {
    stop: () => {
      over.abort()
      return watching
    },
  }
}

async function around(load: Load, what: string, act: () => Promise<void>): Promise<KillResult> {
  load.takeLongestMs()
  const startedMs = performance.now()
  await act()
  const backMs = Math.round(performance.now() - startedMs)
  await load.flowing()
  return { what, pauseMs: load.takeLongestMs(), backMs }
}

async function untilBack(
  tools: Tools,
  component: string,
  more: string,
  count: number,
  goneUid: string,
): Promise<void> {
  const untilMs = performance.now() + BACK_MS_MAX
  for (;;) {
    const pods = await podsOf(tools, component, more)
    const ready = pods.filter((pod) => isReady(pod) && pod.metadata.uid !== goneUid)
    if (ready.length >= count) return
    if (performance.now() > untilMs) {
      const states = pods.map(({ metadata, status }) => `${metadata.name} ${status.phase}`).join(', ')
      throw fail('timeout', `${component} did not come back within ${BACK_MS_MAX} ms: ${states}`)
    }
    await delay(POLL_MS)
  }
}
