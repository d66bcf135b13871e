// Goal: an address that does not answer does not hold calls for the minutes that the kernel takes. Method: a TLS
// channel to a listener that says nothing, then the real server.
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { Channel, credentials, makeClientConstructor } from '@grpc/grpc-js'
import type { ServiceError } from '@grpc/grpc-js'
import { expect, onTestFinished, test } from 'vitest'
import { HealthService } from './health.ts'
import { RedialingChannel } from './redial.ts'
import { startServer } from './server.ts'
import { PLAIN_SERVER } from './index.ts'

const CONNECT_MS_MAX = 200

/** TCP connects, and then no byte comes. */
async function silentPort(): Promise<number> {
  const sockets: Socket[] = []
  const server = createServer((socket) => sockets.push(socket.on('error', () => undefined)))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

test('a call to an address without an answer fails soon, and the next one finds the server that is there by then', async () => {
  const silent = await silentPort()
  const server = await startServer(PLAIN_SERVER, { host: '127.0.0.1', port: 0, services: [] })
  let dials = 0
  const channel = new RedialingChannel(
    () =>
      dials++ === 0
        ? new Channel(`127.0.0.1:${silent}`, credentials.createSsl(), {})
        : new Channel(server.address, credentials.createInsecure(), {}),
    CONNECT_MS_MAX,
  )
  const Health = makeClientConstructor(HealthService, 'grpc.health.v1.Health')
  const late = new RedialingChannel(
    () => new Channel(`127.0.0.1:${silent}`, credentials.createSsl(), {}),
    CONNECT_MS_MAX,
  )
  const clientOf = (channelOverride: RedialingChannel) =>
    new Health('', credentials.createInsecure(), { channelOverride })
  const [client, lateClient] = [clientOf(channel), clientOf(late)]
  onTestFinished(async () => {
    client.close()
    lateClient.close()
    await server.stop(0)
  })
  const check = (of = client): Promise<string> =>
    new Promise((resolve) => {
      const method = of['check'] as (
        request: object,
        callback: (error: ServiceError | null, response: { status: number }) => void,
      ) => void
      method.call(of, { service: '' }, (error, response) =>
        resolve(error === null ? `status ${response.status}` : `code ${error.code}`),
      )
    })
  expect(await check()).toBe('code 14')
  expect(await check()).toBe('status 1')
  // A connection made in time is kept: it outlives the attempt of another channel, which began later.
  expect(await check(lateClient)).toBe('code 14')
  expect(await check()).toBe('status 1')
  expect(dials).toBe(2)
})
