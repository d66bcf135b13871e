// The proxy delays and resets, and passes every byte in order.
import { type Socket, connect, createServer } from 'node:net'
import { expect, test } from 'vitest'
import { TcpProxy } from './tcp-proxy.ts'

async function echoing(): Promise<AsyncDisposable & { readonly target: string }> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.pipe(socket)
  })
  const port = await new Promise<number>((resolve) =>
    server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port)),
  )
  return {
    target: `127.0.0.1:${port}`,
    [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())),
  }
}

const dial = ({ address }: TcpProxy): Socket =>
  connect({ host: '127.0.0.1', port: Number(address.slice(address.lastIndexOf(':') + 1)) })

async function echo(socket: Socket, sent: Buffer): Promise<Buffer> {
  const received: Buffer[] = []
  socket.end(sent)
  for await (const piece of socket) received.push(piece as Buffer)
  return Buffer.concat(received)
}

test('every byte comes through in order, with a delay too', async () => {
  await using server = await echoing()
  await using proxy = await TcpProxy.start({ target: server.target })
  const sent = Buffer.from(Uint8Array.from({ length: 3_000_000 }, (_, i) => (i * 31 + (i >> 8)) & 0xff))
  expect((await echo(dial(proxy), sent)).equals(sent)).toBe(true)
  proxy.delayMs = 60
  const beganMs = performance.now()
  expect((await echo(dial(proxy), Buffer.from('hello'))).toString()).toBe('hello')
  expect(performance.now() - beganMs).toBeGreaterThanOrEqual(115)
})

test('a reset breaks what is open, and new connections are taken', async () => {
  await using server = await echoing()
  await using proxy = await TcpProxy.start({ target: server.target })
  const socket = dial(proxy)
  socket.write('x')
  await new Promise((resolve) => socket.once('data', resolve))
  const broken = new Promise((resolve) => socket.once('error', resolve))
  proxy.reset()
  expect(await broken).toMatchObject({ code: 'ECONNRESET' })
  expect((await echo(dial(proxy), Buffer.from('again'))).toString()).toBe('again')
})
