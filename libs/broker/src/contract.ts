/** The duties of every broker, as tests: `brokerContract(open)` inside a `describe`. */
import { realClock } from '@understory/env'
import { expect, onTestFinished, test } from 'vitest'
import type { Broker, BrokerChange } from './broker.ts'

export interface Watched {
  /** The sum of the changes. */
  readonly state: Map<string, unknown>
  readonly changes: BrokerChange[]
  stop(): Promise<void>
}

/** Follows a prefix in the background. */
export function watched(broker: Broker, prefix: string): Watched {
  const controller = new AbortController()
  const state = new Map<string, unknown>()
  const changes: BrokerChange[] = []
  const ended = (async () => {
    for await (const change of broker.watch(prefix, controller.signal)) {
      changes.push(change)
      if (change.kind === 'announced') state.set(change.key, change.value)
      else state.delete(change.key)
    }
  })()
  const stop = (): Promise<void> => {
    controller.abort()
    return ended
  }
  onTestFinished(stop)
  return { state, changes, stop }
}

/** `open` gives another broker on the same, at first empty, announcements each time; the contract closes it. */
export function brokerContract(open: () => Promise<Broker>): void {
  let testsCount = 0
  /** So that tests on one server do not meet. */
  const space = (): string => `t${testsCount++}/`

  test('what one announces the others list, until it is withdrawn', async () => {
    await using pair = await two(open)
    const { here, there } = pair
    const at = space()
    const announcement = await here.announce(`${at}node/b`, { address: '127.0.0.1:1', kinds: ['x', 'ü'] })
    await here.announce(`${at}node/a`, 1)
    expect(await there.list(`${at}node/`)).toEqual([
      { key: `${at}node/a`, value: 1 },
      { key: `${at}node/b`, value: { address: '127.0.0.1:1', kinds: ['x', 'ü'] } },
    ])
    expect(await there.list(`${at}node/b`)).toHaveLength(1)
    await announcement.update({ address: '127.0.0.1:2' })
    expect(await there.list(`${at}node/b`)).toEqual([
      { key: `${at}node/b`, value: { address: '127.0.0.1:2' } },
    ])
    await announcement.stop()
    await announcement.stop()
    expect(await there.list(`${at}node/b`)).toEqual([])
  })

  test('an announcement lives as long as its owner repeats it', async () => {
    await using pair = await two(open)
    const { here, there } = pair
    const at = space()
    const ttlMs = 300
    await here.announce(`${at}kept`, 1, ttlMs)
    await realClock.sleep(3 * ttlMs)
    expect(await there.list(at)).toHaveLength(1)
    await here.close()
    expect(await there.list(at)).toEqual([])
  })

  test('a watch reports the keys that are there, then the changes, and nothing twice', async () => {
    await using pair = await two(open)
    const { here, there } = pair
    const at = space()
    await here.announce(`${at}first`, 1, 300)
    const { state, changes } = watched(there, at)
    await expect.poll(() => state.get(`${at}first`)).toBe(1)
    const second = await here.announce(`${at}second`, 'a')
    await here.announce(`elsewhere/${at}x`, 'not seen')
    await expect.poll(() => state.get(`${at}second`)).toBe('a')
    await second.update('b')
    await expect.poll(() => state.get(`${at}second`)).toBe('b')
    await second.stop()
    await expect.poll(() => state.has(`${at}second`)).toBe(false)
    expect(changes.filter(({ key }) => key === `${at}first`)).toHaveLength(1)
    await here.close()
    await expect.poll(() => state.size, { timeout: 5_000 }).toBe(0)
  })

  test('a watch ends with its signal, with its loop and with its broker', async () => {
    await using pair = await two(open)
    const { here, there } = pair
    const at = space()
    await here.announce(`${at}a`, 1)
    const bySignal = watched(there, at)
    await expect.poll(() => bySignal.state.size).toBe(1)
    await bySignal.stop()
    for await (const change of there.watch(at, new AbortController().signal)) {
      expect(change).toEqual({ kind: 'announced', key: `${at}a`, value: 1 })
      break
    }
    const byClose = Array.fromAsync(there.watch(at, new AbortController().signal))
    await there.close()
    for (const change of await byClose) expect(change.kind).toBe('announced')
  })

  test('bad keys, values and times are refused', async () => {
    await using broker = await open()
    for (const key of ['', 'a//b', '/a', 'a/', 'a b', 'a*', 'ä', 'a'.repeat(301)]) {
      await expect(broker.announce(key, 1), key).rejects.toMatchObject({ code: 'bad_argument' })
    }
    await expect(broker.announce('k', undefined)).rejects.toMatchObject({ code: 'bad_argument' })
    await expect(broker.announce('k', 'x'.repeat(65_536))).rejects.toMatchObject({ code: 'bad_argument' })
    await expect(broker.announce('k', 1, 0)).rejects.toMatchObject({ code: 'bad_argument' })
    await expect(broker.list('a*')).rejects.toMatchObject({ code: 'bad_argument' })
    await broker.announce('k', 1)
    await expect(broker.announce('k', 2)).rejects.toMatchObject({ code: 'already_exists' })
  })
}

async function two(open: () => Promise<Broker>): Promise<{ here: Broker; there: Broker } & AsyncDisposable> {
  const [here, there] = [await open(), await open()]
  const close = async (): Promise<void> => {
    await here.close()
    await there.close()
  }
  return { here, there, [Symbol.asyncDispose]: close }
}
