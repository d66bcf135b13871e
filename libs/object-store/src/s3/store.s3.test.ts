// The S3 backend keeps the contract on two implementations of S3, and says what is wrong when something is.
import { once } from 'node:events'
import { type Server, type Socket, connect, createServer } from 'node:net'
import { realClock as clock, realRng as rng, seededRng } from '@understory/env'
import {
  type S3Server,
  minioMissing,
  s3ProxyMissing,
  startMinio,
  startS3Proxy,
} from '@understory/testcontainers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { objectStoreContract } from '../contract.ts'
import { openObjectStore } from '../open.ts'
import { probeConditionalPut } from '../probe.ts'
import type { ObjectStore } from '../store.ts'

let bucketsCount = 0

async function emptyStore(server: S3Server, prefix = 'some/prefix'): Promise<ObjectStore> {
  const bucket = `bucket-${bucketsCount++}`
  await server.createBucket(bucket)
  return openObjectStore(server.url(bucket, prefix), { clock, rng, environment: server.environment })
}

const noMinio = await minioMissing()
describe.skipIf(noMinio !== undefined)(noMinio === undefined ? 'MinIO' : `MinIO: ${noMinio}`, () => {
  let server: S3Server
  beforeAll(async () => {
    server = await startMinio()
  })
  afterAll(() => server?.[Symbol.asyncDispose]())

  objectStoreContract(() => emptyStore(server))

  test('a bucket is made where that is asked for, once', async () => {
    const url = `${server.url('made-by-itself', 'some/prefix')}&create=bucket`
    for (const _ of [1, 2]) {
      await using store = await openObjectStore(url, { clock, rng, environment: server.environment })
      await store.put('k', new Uint8Array(3))
      expect((await store.get('k')).bytes.length).toBe(3)
    }
  })

  test('listings and deletions go past a thousand keys', async () => {
    await using store = await emptyStore(server, '')
    const keys = Array.from({ length: 1100 }, (_, index) => `many/${String(index).padStart(5, '0')}`)
    for (let done = 0; done < keys.length; done += 50) {
      await Promise.all(keys.slice(done, done + 50).map((key) => store.put(key, new Uint8Array(1))))
    }
    expect((await Array.fromAsync(store.list('many/'))).map(({ key }) => key)).toEqual(keys)
    await store.delete(keys)
    expect(await Array.fromAsync(store.list(''))).toEqual([])
  })

  test('a large object goes in parts and comes back whole', async () => {
    await using store = await emptyStore(server)
    const block = seededRng(1).bytes(1024 * 1024)
    const bytes = Buffer.concat(Array.from({ length: 70 }, () => block))
    const etag = await store.put('large', bytes)
    expect(await store.head('large')).toMatchObject({ sizeBytes: bytes.length, etag })
    expect(Buffer.compare((await store.get('large')).bytes, bytes)).toBe(0)
    const [start, end] = [32 * 1024 * 1024 - 5, 32 * 1024 * 1024 + 5]
    expect(Buffer.compare(await store.getRange('large', start, end), bytes.subarray(start, end))).toBe(0)
    await expect(store.putIfAbsent('x', bytes)).rejects.toMatchObject({ code: 'bad_argument' })
  })

  test('wrong credentials and a missing bucket are said', async () => {
    const bytes = new Uint8Array(1)
    const wrong = { AWS_ACCESS_KEY_ID: 'understory', AWS_SECRET_ACCESS_KEY: 'wrong' }
    await using denied = await openObjectStore(server.url('bucket-0'), { clock, rng, environment: wrong })
    await expect(denied.put('k', bytes)).rejects.toMatchObject({
      code: 'denied',
      message: expect.stringMatching(/^credentials for s3:\/\/bucket-0 .* are missing or wrong$/),
    })
    await expect(denied.head('k')).rejects.toMatchObject({ code: 'denied' })
    const { environment } = server
    await using nowhere = await openObjectStore(server.url('no-such-bucket'), { clock, rng, environment })
    await expect(nowhere.put('k', bytes)).rejects.toMatchObject({
      code: 'precondition',
      hint: 'Create the bucket.',
    })
    await expect(nowhere.get('k')).rejects.toMatchObject({ code: 'precondition' })
    await expect(Array.fromAsync(nowhere.list(''))).rejects.toMatchObject({ code: 'precondition' })
  })

  test('a short outage is bridged, a long one ends as unavailable or with the deadline', async () => {
    await using store = await emptyStore(server)
    await store.put('k', new TextEncoder().encode('v'))
    await server.kill()
    await expect(store.get('k', { deadlineMs: 150 })).rejects.toMatchObject({ code: 'timeout' })
    await expect(store.get('k')).rejects.toMatchObject({ code: 'unavailable' })
    const reading = store.get('k')
    await server.start()
    expect(new TextDecoder().decode((await reading).bytes)).toBe('v')
  })

  test('a conditional write whose answer was lost is known as our own', async () => {
    const direct = await emptyStore(server)
    await using link = await deafLink(server.port)
    const url = direct.description.replace(/ at .*/, `?endpoint=http://127.0.0.1:${link.port}`)
    await using store = await openObjectStore(url, { clock, rng, environment: server.environment })
    const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
    link.loseAnswers(1)
    const mine = await store.putIfAbsent('lease', bytes('node 1'))
    expect(mine).toEqual({ kind: 'stored', etag: (await direct.get('lease')).etag })
    expect(link.lostCount).toBe(1)
    link.loseAnswers(1)
    expect(await store.putIfAbsent('lease', bytes('node 2'))).toEqual({ kind: 'conflict' })
    link.loseAnswers(1)
    const etag = mine.kind === 'stored' ? mine.etag : ''
    expect((await store.putIfMatch('lease', etag, bytes('node 1, second term'))).kind).toBe('stored')
    expect(link.lostCount).toBe(3)
    await direct.close()
  })
})

const noS3Proxy = await s3ProxyMissing()
describe.skipIf(noS3Proxy !== undefined)(
  noS3Proxy === undefined ? 'S3Proxy' : `S3Proxy: ${noS3Proxy}`,
  () => {
    let server: S3Server
    beforeAll(async () => {
      server = await startS3Proxy()
    })
    afterAll(() => server?.[Symbol.asyncDispose]())

    objectStoreContract(() => emptyStore(server), { swapsAtomically: false })

    test('the probe finds that it compares and swaps in two steps', async () => {
      await using store = await emptyStore(server)
      const probe = async (): Promise<string> =>
        probeConditionalPut(store, rng).then(
          () => 'not found yet',
          (error: Error) => error.message,
        )
      await expect.poll(probe, { timeout: 60_000 }).toContain('does not keep conditional writes')
    })
  },
)

interface DeafLink extends AsyncDisposable {
  readonly port: number
  readonly lostCount: number
  /** Of the next answers, this many are dropped with their connection. */
  loseAnswers(count: number): void
}

/** Passes everything on, except for answers that are to be lost. */
async function deafLink(targetPort: number): Promise<DeafLink> {
  const sockets = new Set<Socket>()
  let toLoseCount = 0
  let lostCount = 0
  const server: Server = createServer((near) => {
    const far = connect(targetPort, '127.0.0.1')
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket
        .on('error', () => undefined)
        .on('close', () => {
          near.destroy()
          far.destroy()
        })
    }
    near.pipe(far)
    far.on('data', (chunk) => {
      if (toLoseCount === 0) {
        near.write(chunk)
        return
      }
      toLoseCount--
      lostCount++
      near.resetAndDestroy()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as { port: number }).port,
    get lostCount() {
      return lostCount
    },
    loseAnswers: (count) => {
      toLoseCount = count
    },
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
