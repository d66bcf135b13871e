/**
 * Goal: a change of the safekeepers ends, even with any node away. Method: the reconciler over nodes in memory, without
 * sockets.
 */
import { lsn } from '@understory/base'
import { realClock, silentLog } from '@understory/env'
import { MemoryNodes } from '@understory/protocol/clients/memory'
import type { MemorySafekeeper } from '@understory/protocol/clients/memory'
import { expect, test } from 'vitest'
import { NodeClients } from '../clients/node-clients.ts'
import { isUnderWay, requestChange } from './membership-change.ts'
import { MembershipReconciler } from './membership-reconciler.ts'
import type { NodeView } from '../documents/nodes.ts'
import { REF, aTimeline } from '../../test/support.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'

const POSTGRES = { major: 17, systemId: 7n, pgTimelineId: 1, walSegmentBytes: 16 << 20 } as const
const START = lsn(16 << 20)
const NODES = ['sk-1', 'sk-2', 'sk-3', 'sk-4']
const addressOf = (node: string): string => `${node}:1`

const INITIAL = aTimeline({
  startLsn: '0/1000000',
  bootstrapped: true,
  safekeeperNodes: ['sk-1', 'sk-2', 'sk-3'],
  addresses: Object.fromEntries(NODES.map((node) => [node, addressOf(node)])),
})

async function bench() {
  const nodes = new MemoryNodes()
  for (const node of INITIAL.safekeeperNodes) {
    await nodes.safekeeper(addressOf(node)).createTimeline(REF, POSTGRES, START)
    nodes.safekeeper(addressOf(node)).set(REF, {
      term: 4,
      history: [{ term: 4, startLsn: START }],
      flushLsn: lsn(20 << 20),
      commitLsn: lsn(20 << 20),
    })
  }
  let document = requestChange(INITIAL, { add: ['sk-4'], remove: ['sk-1'], reason: 'user' }, 0)
  const announced = NODES.map((nodeId): NodeView => ({
    nodeId,
    kind: 'safekeeper',
    address: addressOf(nodeId),
  }))
  const reconciler = new MembershipReconciler({
    nodes: { known: () => announced, list: () => Promise.resolve(announced) },
    clients: new NodeClients(realClock, nodes),
    clock: realClock,
    log: silentLog,
    ref: REF,
    update: (change) => Promise.resolve((document = change(document))),
    replaceAfterMs: 0,
  })
  return {
    safekeeper: (node: string): MemorySafekeeper => nodes.safekeeper(addressOf(node)),
    run: async (passesCount: number): Promise<TimelineDocument> => {
      for (let i = 0; i < passesCount; i++) await reconciler.advance(document, undefined)
      return document
    },
  }
}

test('a newcomer takes the place of a member, whose copy goes', async () => {
  const { safekeeper, run } = await bench()
  const after = await run(6)
  expect(isUnderWay(after.safekeeperChange)).toBe(false)
  expect(after).toMatchObject({
    safekeeperNodes: ['sk-2', 'sk-3', 'sk-4'],
    newSafekeeperNodes: [],
    membershipGeneration: 2,
    retiredReplicas: [],
  })
  expect(safekeeper('sk-1').has(REF)).toBe(false)
  for (const node of after.safekeeperNodes)
    expect(await safekeeper(node).walStatus(REF)).toMatchObject({
      membershipGeneration: 2,
      flushLsn: 20 << 20,
    })
})

test('the member that leaves may be away; its copy goes when it is back', async () => {
  const { safekeeper, run } = await bench()
  safekeeper('sk-1').isAway = true
  const after = await run(6)
  expect(isUnderWay(after.safekeeperChange)).toBe(false)
  expect(after.retiredReplicas).toEqual([{ node: 'sk-1', generation: 2 }])
})

test('while two of the old members are away nothing is decided, and why is said', async () => {
  const { safekeeper, run } = await bench()
  for (const node of ['sk-1', 'sk-2']) safekeeper(node).isAway = true
  const waiting = await run(3)
  expect(waiting).toMatchObject({ membershipGeneration: 1, safekeeperNodes: ['sk-1', 'sk-2', 'sk-3'] })
  expect(waiting.safekeeperChange?.problem).toContain('"sk-2" does not answer')
  safekeeper('sk-2').isAway = false
  expect(await run(3)).toMatchObject({ membershipGeneration: 2, safekeeperNodes: ['sk-2', 'sk-3', 'sk-4'] })
})
