/**
 * The pod of the control plane that leads carries a label, by which the service finds it: those that stand by are ready
 * too, so that roll-outs and drains count them, and are never asked.
 *
 * Looked at again and again: a predecessor may end without taking its own away, and what it asked for may come late.
 */
import { Loop, ProblemReport } from '@understory/actor'
import type { Clock, Log, Rng } from '@understory/env'
import type { KubernetesApi } from './api.ts'
import type { PodSettings } from './pod-settings.ts'

export const LEADER_LABEL = 'understory/leader'
const LOOK_MS = 10_000
const RETRY_MS = 1_000

export interface LeaderLabelParts {
  readonly api: Pick<KubernetesApi, 'listPods' | 'labelPod'>
  readonly settings: Pick<PodSettings, 'controlPlaneLabels'>
  readonly podName: string
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

/** While it runs, this pod has the label, and no other control plane's. */
export const leaderLabelLoop = (parts: LeaderLabelParts): Loop =>
  new Loop({
    ...parts,
    pauseMs: LOOK_MS,
    backoff: { baseMs: RETRY_MS, pauseMsMax: RETRY_MS },
    problems: new ProblemReport({ ...parts, event: 'leader_not_labelled' }),
    round: () => labelLeader(parts),
  })

async function labelLeader({ api, settings, podName }: LeaderLabelParts): Promise<void> {
  const selector = Object.entries(settings.controlPlaneLabels).map(([name, value]) => `${name}=${value}`)
  for (const { metadata } of await api.listPods(selector.join(','))) {
    const leads = metadata.name === podName
    if ((metadata.labels?.[LEADER_LABEL] === 'true') !== leads)
      await api.labelPod(metadata.name, { [LEADER_LABEL]: leads ? 'true' : null })
  }
}
