// Goal: an announcement is neither called nor written anywhere unless it names a node and an address. Method: a
// broker in memory with good and bad announcements, listed and followed.
import { memoryBroker } from '@understory/broker'
import { jsonLog, realClock, realRng } from '@understory/env'
import { expect, onTestFinished, test } from 'vitest'
import { Nodes } from './nodes.ts'

const GOOD = { kind: 'safekeeper', address: '10.0.0.1:7500' } as const

test('bad announcements are ignored, and each is reported once', async () => {
  const reported: string[] = []
  const log = jsonLog({ write: (line) => reported.push((JSON.parse(line) as { key: string }).key) })
  const broker = memoryBroker({ clock: realClock, rng: realRng, log })
  onTestFinished(() => broker.close())
  const bad = {
    'node/__proto__': GOOD,
    'node/constructor': GOOD,
    'node/a/b': GOOD,
    'node/-': GOOD,
    'node/scheme': { ...GOOD, address: 'http://10.0.0.1:80' },
    'node/path': { ...GOOD, address: '10.0.0.1:80/x' },
    'node/port': { ...GOOD, address: '10.0.0.1:70000' },
    'node/none': { ...GOOD, address: '' },
    'node/kind': { ...GOOD, kind: 'constructor' },
    'node/text': 'safekeeper',
  }
  for (const [key, value] of Object.entries({
    ...bad,
    'node/good': GOOD,
    'node/v6': { ...GOOD, address: '[::1]:1' },
  }))
    await broker.announce(key, value)
  const nodes = new Nodes(broker, log)
  const stop = new AbortController()
  onTestFinished(() => stop.abort())
  void nodes.follow(stop.signal).catch(() => undefined)
  for (let look = 0; look < 3; look++)
    expect((await nodes.list()).map(({ nodeId }) => nodeId)).toEqual(['good', 'v6'])
  await expect.poll(() => nodes.known().map(({ nodeId }) => nodeId)).toEqual(['good', 'v6'])
  expect(reported.toSorted()).toEqual(Object.keys(bad).toSorted())
  await expect(nodes.address('__proto__')).rejects.toMatchObject({ code: 'unavailable' })
})
