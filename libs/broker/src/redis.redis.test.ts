// In Redis the broker keeps the contract, and survives every fault of Redis.
import { realClock as clock, realRng as rng, silentLog as log } from '@understory/env'
import { PLAIN_CLIENT } from '@understory/rpc'
import { type RedisServer, redisMissing, startRedis } from '@understory/testcontainers'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { brokerContract, watched } from './contract.ts'
import { openBroker } from './open.ts'

const missing = await redisMissing()
describe.skipIf(missing !== undefined)(missing === undefined ? 'Redis' : `Redis: ${missing}`, () => {
  let server: RedisServer
  beforeAll(async () => {
    server = await startRedis()
  })
  afterAll(() => server?.[Symbol.asyncDispose]())
  const open = () => openBroker(server.url, { clock, rng, log, rpc: PLAIN_CLIENT })

  brokerContract(async () => open())

  test('what FLUSHALL or a restart takes away comes back', async () => {
    await using here = open()
    await using there = open()
    await here.announce('lost/a', 1, 900)
    const { state } = watched(there, 'lost/')
    await expect.poll(() => state.get('lost/a')).toBe(1)
    const admin = new Redis(server.url)
    await admin.flushall()
    await expect.poll(() => there.list('lost/'), { timeout: 5_000 }).toHaveLength(1)
    admin.disconnect()
    await server.kill()
    await expect(there.list('lost/')).rejects.toMatchObject({ code: 'unavailable' })
    const unreachable = { detail: expect.stringMatching(/ECONNREFUSED/) }
    await expect(there.list('lost/')).rejects.toMatchObject(unreachable)
    await server.start()
    await expect.poll(() => there.list('lost/').catch(() => []), { timeout: 10_000 }).toHaveLength(1)
    const other = await here.announce('lost/b', 2)
    await expect.poll(() => state.get('lost/b'), { timeout: 10_000 }).toBe(2)
    await other.stop()
    await expect.poll(() => state.has('lost/b'), { timeout: 10_000 }).toBe(false)
    expect(state.get('lost/a')).toBe(1)
  })

  test('installations with a prefix each share a Redis and see nothing of each other', async () => {
    await using one = openBroker(`${server.url}?prefix=space.one`, { clock, rng, log, rpc: PLAIN_CLIENT })
    await using other = openBroker(`${server.url}?prefix=space.other`, { clock, rng, log, rpc: PLAIN_CLIENT })
    const { state } = watched(one, 'shared/')
    await other.announce('shared/a', 'theirs')
    await one.announce('shared/b', 'ours')
    await expect.poll(() => state.get('shared/b')).toBe('ours')
    expect(state.has('shared/a')).toBe(false)
    expect(await one.list('shared/')).toEqual([{ key: 'shared/b', value: 'ours' }])
    expect(() => openBroker(`${server.url}?prefix=a*`, { clock, rng, log, rpc: PLAIN_CLIENT })).toThrow(
      'malformed prefix "a*"',
    )
  })

  test('entries and messages that are not ours are passed over', async () => {
    await using broker = open()
    const admin = new Redis(server.url)
    await admin.set('understory:announce:foreign/a', 'not json', 'PX', 60_000)
    const { state } = watched(broker, 'foreign/')
    await broker.announce('foreign/b', 1)
    await expect.poll(() => state.get('foreign/b')).toBe(1)
    for (const message of ['no json', 'null', '5', '{}', '{"key":5}', '{"key":"foreign/b","text":"x"}']) {
      await admin.publish('understory:announcements', message)
    }
    await admin.publish('understory:announcements', JSON.stringify({ key: 'foreign/c', text: '3' }))
    await expect.poll(() => state.get('foreign/c')).toBe(3)
    expect(await broker.list('foreign/')).toEqual([{ key: 'foreign/b', value: 1 }])
    admin.disconnect()
  })

  test('a password that is missing is said and never shown', async () => {
    const admin = new Redis(server.url)
    await admin.config('SET', 'requirepass', 'sesame')
    try {
      await using without = open()
      await expect(without.list('x/')).rejects.toMatchObject({ code: 'denied' })
      await using wrong = openBroker(server.url.replace('redis://', 'redis://:simsim@'), {
        clock,
        rng,
        log,
        rpc: PLAIN_CLIENT,
      })
      // Every time: some commands meet the refusal, and some the missing connection after it.
      for (let call = 0; call < 8; call++)
        await expect(wrong.list('x/'), `call ${call}`).rejects.toMatchObject({ code: 'denied' })
      const url = server.url.replace('redis://', 'redis://:sesame@')
      await using withPassword = openBroker(url, { clock, rng, log, rpc: PLAIN_CLIENT })
      expect(await withPassword.list('x/')).toEqual([])
      expect(withPassword.description).toBe(server.url)
    } finally {
      await admin.config('SET', 'requirepass', '')
      admin.disconnect()
    }
  })
})
