// Goal: the token of an installation is replaced while its services call each other, and not one call fails. Method:
// two servers and their clients, each with a token file of its own, on loopback.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { jsonLog, realClock, silentLog } from '@understory/env'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import {
  PLAIN_SERVER,
  BrokerServiceClient,
  BrokerServiceService,
  callUnary,
  createClient,
  readSecurity,
  service,
  startServer,
  unary,
} from './index.ts'
import type { Handlers, BrokerServiceServer, ClientSecurity } from './index.ts'
import { TokenFile } from './token-file.ts'

async function folderPath(): Promise<string> {
  const folder = await temporaryDirectory({ prefix: 'tokens' })
  onTestFinished(() => folder[Symbol.asyncDispose]())
  return folder.path
}

const handlers = { listAnnouncements: unary(() => ({ announcements: [] })) }

/** A service that takes and sends what its file says. */
async function startService(path: string) {
  const token = new TokenFile(path)
  const services = [service(BrokerServiceService, handlers as unknown as Handlers<BrokerServiceServer>)]
  const server = await startServer(
    { ...PLAIN_SERVER, security: { token } },
    { host: '127.0.0.1', port: 0, services },
  )
  onTestFinished(() => server.stop(0))
  const callTo = (address: string, own: ClientSecurity = { token }): (() => Promise<unknown>) => {
    const client = createClient({ security: own }, BrokerServiceClient, address)
    onTestFinished(() => client.close())
    return () => callUnary(client.listAnnouncements.bind(client), { prefix: '' }, { deadlineMs: 3_000 })
  }
  return { address: server.address, token, callTo }
}

test('a rotation over two running services fails no call of theirs, and ends the old token', async () => {
  const folder = await folderPath()
  const paths = [join(folder, 'a'), join(folder, 'b')]
  for (const path of paths) writeFileSync(path, 'old\n')
  const services = [await startService(paths[0] as string), await startService(paths[1] as string)]
  const [a, b] = services as [(typeof services)[number], (typeof services)[number]]
  const calls = [a.callTo(b.address), b.callTo(a.address)]
  const byOld = a.callTo(b.address, { token: 'old' })
  const byNew = a.callTo(b.address, { token: 'new' })
  const log = silentLog
  await expect(byNew()).rejects.toMatchObject({ code: 'unauthenticated' })
  for (const content of ['old\nnew\n', 'new\nold\n', '\n new \n']) {
    // One after the other, as files of different hosts are replaced.
    for (const [i, path] of paths.entries()) {
      writeFileSync(path, content)
      services[i]?.token.refresh(log)
      for (const call of calls) expect(await call()).toEqual({ announcements: [] })
    }
  }
  expect(await byNew()).toEqual({ announcements: [] })
  await expect(byOld()).rejects.toMatchObject({ code: 'unauthenticated' })
})

test('a file that cannot be used changes nothing and is reported once', async () => {
  const path = join(await folderPath(), 'tokens')
  writeFileSync(path, 'one\n')
  const file = new TokenFile(path)
  const events: string[] = []
  const log = jsonLog({ write: (line) => events.push((JSON.parse(line) as { event: string }).event) })
  for (const content of ['', 'one\ntwo\u{7f}\n', 't\n'.repeat(17)]) {
    writeFileSync(path, content)
    file.refresh(log)
    file.refresh(log)
    expect(file.tokens).toEqual(['one'])
  }
  expect(events).toEqual(['tokens_not_read', 'tokens_not_read', 'tokens_not_read'])
  writeFileSync(path, 'one\ntwo\n')
  file.refresh(log)
  file.refresh(log)
  expect(file.tokens).toEqual(['one', 'two'])
  expect(events.slice(3)).toEqual(['tokens_renewed'])
})

test('the file of the environment is read again and again', async () => {
  const path = join(await folderPath(), 'tokens')
  writeFileSync(path, 'old\n')
  const security = readSecurity({ UNDERSTORY_TOKEN_FILE: path })
  const timers: { readonly afterMs: number; readonly fire: () => void }[] = []
  const setTimer = (afterMs: number, fire: () => void) => {
    timers.push({ afterMs, fire })
    return { cancel: () => undefined }
  }
  security.watch({ clock: { ...realClock, setTimer }, log: silentLog })
  const services = [service(BrokerServiceService, handlers as unknown as Handlers<BrokerServiceServer>)]
  const context = { ...PLAIN_SERVER, security: security.server }
  const server = await startServer(context, { host: '127.0.0.1', port: 0, services })
  const client = createClient({ security: { token: 'new' } }, BrokerServiceClient, server.address)
  onTestFinished(async () => {
    client.close()
    await server.stop(0)
  })
  const call = (): Promise<unknown> => callUnary(client.listAnnouncements.bind(client), { prefix: '' })
  writeFileSync(path, 'new\n')
  await expect(call()).rejects.toMatchObject({ code: 'unauthenticated' })
  expect(timers.map(({ afterMs }) => afterMs)).toEqual([30_000])
  timers.shift()?.fire()
  expect(await call()).toEqual({ announcements: [] })
  expect(timers).toHaveLength(1)
})

test('a token that no header can carry is refused without its text', async () => {
  const path = join(await folderPath(), 'tokens')
  writeFileSync(path, 'good\n\nb\u0000d\n')
  expect(() => new TokenFile(path)).toThrow(/^line 3 of ".*tokens" has characters/)
  expect(() => readSecurity({ UNDERSTORY_TOKEN: 'b\u{e9}d' })).toThrow(/^UNDERSTORY_TOKEN has characters/)
})
