// The embedded broker's core keeps the contract, and a slow reader costs one entry a key.
import { realClock as clock, realRng as rng, silentLog as log } from '@understory/env'
import { PLAIN_CLIENT } from '@understory/rpc'
import { describe, expect, test } from 'vitest'
import { ChangeFeed, type FeedItem } from './change-feed.ts'
import { brokerContract } from './contract.ts'
import { BrokerLink } from './link.ts'
import { MemoryTransport } from './memory.ts'
import { openBroker } from './open.ts'

describe('memory', () => {
  const transport = new MemoryTransport(clock)
  brokerContract(async () => new BrokerLink(transport, { clock, rng, log }))
})

test('a feed keeps the last change of a key and drops what cancels out', async () => {
  const feed = new ChangeFeed()
  feed.snapshot(
    new Map([
      ['a', '1'],
      ['b', '1'],
    ]),
  )
  const controller = new AbortController()
  const items: FeedItem[] = []
  const reader = feed.read(controller.signal)
  const take = async (): Promise<void> => void items.push((await reader.next()).value as FeedItem)
  for (let item = 0; item < 3; item++) await take()
  for (let turn = 0; turn < 1000; turn++) feed.announced('a', String(turn))
  feed.gone('b')
  feed.announced('b', '1')
  feed.gone('c')
  feed.snapshot(
    new Map([
      ['b', '1'],
      ['d', '1'],
    ]),
  )
  for (let item = 0; item < 3; item++) await take()
  expect(items).toEqual([
    { kind: 'announced', key: 'a', text: '1' },
    { kind: 'announced', key: 'b', text: '1' },
    { kind: 'complete' },
    { kind: 'gone', key: 'a' },
    { kind: 'announced', key: 'd', text: '1' },
    { kind: 'complete' },
  ])
  controller.abort()
  expect((await reader.next()).done).toBe(true)
})

test('URLs that cannot be used are refused without being shown', () => {
  for (const url of [
    '',
    'redis',
    'http://host',
    'grpc://host',
    'grpc://host:1/path',
    'redis:',
    'mysql://u:secret@h',
  ]) {
    expect(() => openBroker(url, { clock, rng, log, rpc: PLAIN_CLIENT }), url).toThrow(
      /^could not understand the broker URL$/,
    )
  }
})
