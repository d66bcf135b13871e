// Goal: one pod of a control plane has the label, with any pods that had it before or get it later, also where the API
// is away at first. Method: pods in memory; what happens to them happens while the label is not looked at.
import { fail } from '@understory/base'
import { jsonLog, realClock, seededRng } from '@understory/env'
import { expect, test } from 'vitest'
import { LEADER_LABEL, leaderLabelLoop } from './leader-label.ts'

test('the leader has the label, and no other control plane', async () => {
  const pods = new Map<string, Record<string, string>>([
    ['cp-a', { component: 'control-plane', [LEADER_LABEL]: 'true' }],
    ['cp-b', { component: 'control-plane' }],
    ['cp-c', { component: 'control-plane' }],
    ['other', { component: 'safekeeper', [LEADER_LABEL]: 'true' }],
  ])
  const labelled = (): readonly string[] =>
    [...pods].filter(([, labels]) => labels[LEADER_LABEL] === 'true').map(([name]) => name)
  let failures = 2
  let patches = 0
  const api = {
    listPods: (selector: string) => {
      if (failures-- > 0) return Promise.reject(fail('unavailable', 'the Kubernetes API does not answer'))
      const wanted = selector.split(',').map((part) => part.split('=') as [string, string])
      const found = [...pods].filter(([, labels]) => wanted.every(([name, value]) => labels[name] === value))
      return Promise.resolve(found.map(([name, labels]) => ({ metadata: { name, labels } })))
    },
    labelPod: (name: string, labels: Readonly<Record<string, string | null>>) => {
      patches++
      const of = pods.get(name) as Record<string, string>
      for (const [label, value] of Object.entries(labels))
        if (value === null) delete of[label]
        else of[label] = value
      return Promise.resolve()
    },
  }
  const seen: (readonly string[])[] = []
  const changes: (() => void)[] = [
    // Twice it was refused.
    () => undefined,
    () => undefined,
    () => undefined,
    // The request of the one before comes late.
    () => void ((pods.get('cp-c') as Record<string, string>)[LEADER_LABEL] = 'true'),
    () => void pods.set('cp-b', { component: 'control-plane' }),
    () => void loop.stop(),
  ]
  const sleep = (): Promise<void> => {
    seen.push(labelled())
    changes.shift()?.()
    return Promise.resolve()
  }
  const events: string[] = []
  const loop = leaderLabelLoop({
    api,
    settings: { controlPlaneLabels: { component: 'control-plane' } },
    podName: 'cp-b',
    clock: { ...realClock, sleep },
    rng: seededRng(1),
    log: jsonLog({ write: (line) => events.push((JSON.parse(line) as { event: string }).event) }),
  })
  loop.start()
  await loop.ended
  const before = ['cp-a', 'other']
  const kept = ['cp-b', 'other']
  expect(seen).toEqual([before, before, kept, kept, kept, kept])
  // Where it is right, nothing is asked for.
  expect(patches).toBe(4)
  expect(events).toEqual(['leader_not_labelled'])
})
