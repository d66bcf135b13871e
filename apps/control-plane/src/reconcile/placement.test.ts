// Goal: placement uses an odd number of safekeepers and spreads shards. Method: small clusters by hand.
import { expect, test } from 'vitest'
import { placeTimeline } from './placement.ts'
import type { NodeKind, NodeView } from '../documents/nodes.ts'

const node = (kind: NodeKind, number: number): NodeView => ({
  kind,
  nodeId: `${kind}-${number}`,
  address: `h:${number}`,
})
const cluster = (safekeepers: number, pageservers: number): NodeView[] => [
  ...Array.from({ length: safekeepers }, (_, i) => node('safekeeper', i)),
  ...Array.from({ length: pageservers }, (_, i) => node('pageserver', i)),
  node('compute-host', 0),
]

test('three of five safekeepers are used, and one of two', () => {
  expect(placeTimeline(cluster(5, 1), 1, 0).safekeeperNodes).toHaveLength(3)
  expect(placeTimeline(cluster(2, 1), 1, 0).safekeeperNodes).toHaveLength(1)
})

test('shards go to the pageservers in turn', () => {
  expect(placeTimeline(cluster(3, 2), 4, 1).shardNodes).toEqual([
    'pageserver-1',
    'pageserver-0',
    'pageserver-1',
    'pageserver-0',
  ])
})

test('a missing kind of node is named', () => {
  expect(() => placeTimeline(cluster(3, 0), 2, 0)).toThrow('no pageserver is announced')
})
