// Redis starts, answers, is stopped and comes back empty.
import { connect } from 'node:net'
import { once } from 'node:events'
import { describe, expect, test } from 'vitest'
import { redisMissing, startRedis } from './redis.ts'

const missing = await redisMissing()

async function ask(port: number, command: string): Promise<string> {
  const socket = connect(port, '127.0.0.1').setEncoding('utf8')
  socket.write(`${command}\r\n`)
  const [answer] = (await once(socket, 'data')) as [string]
  socket.destroy()
  return answer.trim()
}

describe.skipIf(missing !== undefined)(missing === undefined ? 'Redis' : `Redis: ${missing}`, () => {
  test('starts, answers, stops and starts again', async () => {
    await using redis = await startRedis()
    expect(await ask(redis.port, 'SET k v')).toBe('+OK')
    await redis.stop()
    await redis.start()
    expect(await ask(redis.port, 'GET k')).toBe('$-1')
    await redis.kill()
    await expect(ask(redis.port, 'PING')).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })
})
