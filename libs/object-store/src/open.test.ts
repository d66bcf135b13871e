// URLs are understood or refused with a reason; a store that ignores conditions is found out.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { inspect } from 'node:util'
import { fail } from '@understory/base'
import { realClock as clock, realRng as rng, seededRng } from '@understory/env'
import { expect, onTestFinished, test } from 'vitest'
import { memoryObjectStore } from './memory/store.ts'
import { openObjectStore } from './open.ts'
import { probeConditionalPut } from './probe.ts'
import type { ConditionalPut, ObjectStore } from './store.ts'

const open = (url: string): Promise<ObjectStore> => openObjectStore(url, { clock, rng })

test('a path and a file URL open the same folder', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'open-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  await using byPath = await open(join(folder, 'deep/er'))
  await using byUrl = await open(pathToFileURL(join(folder, 'deep/er')).href)
  await byPath.put('k', new Uint8Array(5))
  expect((await byUrl.get('k')).bytes.length).toBe(5)
})

test('an S3 URL is described without secrets', async () => {
  await using aws = await open('s3://bucket/some/prefix/?region=eu-west-1')
  expect(aws.description).toBe('s3://bucket/some/prefix')
  await using minio = await open('s3://bucket?endpoint=http://127.0.0.1:9000')
  expect(minio.description).toBe('s3://bucket at http://127.0.0.1:9000')
})

test.each([
  ['relative/path', 'not a URL'],
  ['http://host/x', 'scheme "http:"'],
  ['s3://', 'no bucket'],
  ['s3://b/../..//x', ''],
  ['s3://b?endpoint=host:9000', 'not an http URL'],
  ['s3://b?color=red', 'parameter "color"'],
  ['s3://key:secret@bucket', 'must not contain credentials'],
  ['file://host/x', 'neither host'],
])('%s is refused', async (url, detail) => {
  const opening = open(url)
  await expect(opening).rejects.toMatchObject({ code: 'bad_argument' })
  const error = await opening.catch((cause: unknown) => cause as { message: string; detail?: string })
  expect(`${(error as Error).message} ${(error as { detail?: string }).detail ?? ''}`).toContain(detail)
  expect(inspect(error)).not.toContain('secret')
})

/** A store with a fault. */
function faulty(fault: Partial<ObjectStore>): ObjectStore {
  const store = memoryObjectStore()
  const proxy = new Proxy(store, {
    get: (target, name) => {
      const value: unknown =
        name in fault ? fault[name as keyof ObjectStore] : Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(name in fault ? proxy : target) : value
    },
  })
  return proxy
}

const store = async (self: ObjectStore, key: string, bytes: Uint8Array): Promise<ConditionalPut> => ({
  kind: 'stored',
  etag: await self.put(key, bytes),
})
const faults: [string, Partial<ObjectStore>, string][] = [
  [
    'ignores If-None-Match',
    {
      putIfAbsent(key, bytes) {
        return store(this as ObjectStore, key, bytes)
      },
    },
    'If-None-Match is not refused',
  ],
  [
    'ignores If-Match',
    {
      putIfMatch(key, _etag, bytes) {
        return store(this as ObjectStore, key, bytes)
      },
    },
    'If-Match is not refused',
  ],
  [
    'looks first and writes then',
    {
      async putIfMatch(key, etag, bytes) {
        const self = this as ObjectStore
        if ((await self.head(key))?.etag !== etag) return { kind: 'conflict' }
        await new Promise((resolve) => setImmediate(resolve))
        return store(self, key, bytes)
      },
    },
    '8 of 8 concurrent If-Match won',
  ],
  ['never matches', { putIfMatch: async () => ({ kind: 'conflict' }) }, 'with the current etag is refused'],
]
test('a store that is away is reported with the first request to it', async () => {
  const away = (what: string) => () => Promise.reject(fail('unavailable', `could not ${what}`))
  const probed = faulty({ putIfAbsent: away('put'), delete: away('delete') })
  await expect(probeConditionalPut(probed, seededRng(1))).rejects.toThrow('could not put')
})

test.each(faults)('a store that %s is refused', async (_name, fault, detail) => {
  const probed = faulty(fault)
  await expect(probeConditionalPut(probed, seededRng(1))).rejects.toMatchObject({
    code: 'unsupported',
    message: 'object store memory does not keep conditional writes',
    detail: expect.stringContaining(detail),
  })
  expect(await Array.fromAsync(probed.list(''))).toEqual([])
})
