/** What every backend must do, as tests: `objectStoreContract(makeStore)` inside a `describe`. */
import { seededRng } from '@understory/env'
import { expect, test } from 'vitest'
import { probeConditionalPut } from './probe.ts'
import { type ListedObject, type ObjectStore, getIfPresent } from './store.ts'

export interface ContractOptions {
  /** False for a store that compares and swaps in two steps, so that a race has several winners. */
  readonly swapsAtomically?: boolean
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (data: Uint8Array): string => new TextDecoder().decode(data)

async function keysOf(listing: AsyncIterable<ListedObject>): Promise<string[]> {
  return (await Array.fromAsync(listing)).map(({ key }) => key)
}

/** `make` gives an empty store each time; the contract closes it. */
export function objectStoreContract(make: () => Promise<ObjectStore>, options: ContractOptions = {}): void {
  test('what is put is got, whole and by range', async () => {
    await using store = await make()
    const key = 'tenants/0a/timelines/0b/layer-1.v3'
    const etag = await store.put(key, bytes('0123456789'))
    expect(await store.get(key)).toMatchObject({ etag })
    expect(text((await store.get(key)).bytes)).toBe('0123456789')
    expect(text(await store.getRange(key, 3, 7))).toBe('3456')
    expect(text(await store.getRange(key, 0, 10))).toBe('0123456789')
    expect((await store.getRange(key, 10, 10)).length).toBe(0)
    await expect(store.getRange(key, 5, 11)).rejects.toMatchObject({ code: 'out_of_range' })
    await expect(store.getRange(key, 10, 11)).rejects.toMatchObject({ code: 'out_of_range' })
    await expect(store.getRange(key, 11, 11)).rejects.toMatchObject({ code: 'out_of_range' })
    await expect(store.getRange(key, 5, 4)).rejects.toMatchObject({ code: 'bad_argument' })
    expect(await store.head(key)).toMatchObject({ key, sizeBytes: 10, etag })
    await store.put(key, bytes('new'))
    expect(text((await store.get(key)).bytes)).toBe('new')
  })

  test('what is got is the caller’s own', async () => {
    await using store = await make()
    const put = bytes('mine')
    await store.put('k', put)
    put.fill(0)
    const got = (await store.get('k')).bytes
    expect(text(got)).toBe('mine')
    got.fill(0)
    expect(text((await store.get('k')).bytes)).toBe('mine')
  })

  test('empty and binary objects', async () => {
    await using store = await make()
    await store.put('empty', new Uint8Array(0))
    expect((await store.get('empty')).bytes.length).toBe(0)
    const data = seededRng(1).bytes(300_000)
    await store.put('binary', data)
    expect(Buffer.compare((await store.get('binary')).bytes, data)).toBe(0)
    expect(Buffer.compare(await store.getRange('binary', 8192, 16384), data.subarray(8192, 16384))).toBe(0)
  })

  test('what is absent', async () => {
    await using store = await make()
    await expect(store.get('a/none')).rejects.toMatchObject({ code: 'not_found' })
    await expect(store.getRange('a/none', 0, 1)).rejects.toMatchObject({ code: 'not_found' })
    await expect(store.getRange('a/none', 0, 0)).rejects.toMatchObject({ code: 'not_found' })
    expect(await store.head('a/none')).toBeUndefined()
    expect(await getIfPresent(store, 'a/none')).toBeUndefined()
    expect(await keysOf(store.list('a/'))).toEqual([])
    await store.delete(['a/none', 'none'])
  })

  test('keys that could leave the store or that not every backend takes are refused', async () => {
    await using store = await make()
    const bad = [
      '',
      '/',
      '/a',
      'a/',
      'a//b',
      '..',
      'a/../b',
      '.a',
      'a/.b',
      'a\\b',
      'a b',
      'a\0b',
      'ä',
      'x'.repeat(201),
    ]
    for (const key of bad) {
      await expect(store.put(key, bytes('x')), key).rejects.toMatchObject({ code: 'bad_argument' })
      await expect(store.get(key), key).rejects.toMatchObject({ code: 'bad_argument' })
      await expect(store.delete([key]), key).rejects.toMatchObject({ code: 'bad_argument' })
    }
    await expect(keysOf(store.list('../'))).rejects.toMatchObject({ code: 'bad_argument' })
  })

  test('a listing has every key with the prefix once, in byte order', async () => {
    await using store = await make()
    const keys = ['a/b', 'a-b', 'a/b.c', 'a/b_c', 'ab', 'A', 'a.b/c/d', 'a.b/c-d', 'b/1', 'b/10', 'b/2', 'b0']
    for (const key of keys) await store.put(key, bytes(key))
    expect(await keysOf(store.list(''))).toEqual([...keys].sort())
    expect(await keysOf(store.list('a'))).toEqual(keys.filter((key) => key.startsWith('a')).sort())
    expect(await keysOf(store.list('b/'))).toEqual(['b/1', 'b/10', 'b/2'])
    expect(await keysOf(store.list('b/1'))).toEqual(['b/1', 'b/10'])
    expect(await keysOf(store.list('a.b/c/'))).toEqual(['a.b/c/d'])
    expect(await Array.fromAsync(store.list('b/10'))).toMatchObject([{ key: 'b/10', sizeBytes: 4 }])
  })

  test('deleted keys are gone and can be made again', async () => {
    await using store = await make()
    for (const key of ['d/e/1', 'd/e/2', 'd/3']) await store.put(key, bytes(key))
    await store.delete(['d/e/1', 'd/e/2', 'd/none'])
    await expect(store.get('d/e/1')).rejects.toMatchObject({ code: 'not_found' })
    expect(await keysOf(store.list(''))).toEqual(['d/3'])
    await store.delete(['d/3'])
    expect(await keysOf(store.list(''))).toEqual([])
    expect((await store.putIfAbsent('d/e/1', bytes('again'))).kind).toBe('stored')
    await store.delete([])
  })

  test('putIfAbsent stores once, putIfMatch only over what it names', async () => {
    await using store = await make()
    const first = await store.putIfAbsent('doc', bytes('v1'))
    expect(first.kind).toBe('stored')
    expect(await store.putIfAbsent('doc', bytes('other'))).toEqual({ kind: 'conflict' })
    const { etag } = await store.get('doc')
    expect(first).toEqual({ kind: 'stored', etag })
    const second = await store.putIfMatch('doc', etag, bytes('v2'))
    expect(second.kind).toBe('stored')
    expect(await store.putIfMatch('doc', etag, bytes('v3'))).toEqual({ kind: 'conflict' })
    expect(await store.get('doc')).toMatchObject({
      etag: second.kind === 'stored' ? second.etag : 'conflict',
    })
    expect(text((await store.get('doc')).bytes)).toBe('v2')
    expect(await store.putIfMatch('none', etag, bytes('v'))).toEqual({ kind: 'conflict' })
    expect(await store.head('none')).toBeUndefined()
  })

  const raceTest = options.swapsAtomically === false ? undefined : test
  raceTest?.('of many concurrent conditional writers one wins', async () => {
    await using store = await make()
    for (let round = 0; round < 5; round++) {
      const key = `race/${round}`
      const writers = Array.from({ length: 8 }, (_, writer) =>
        store.putIfAbsent(key, bytes(`writer ${writer}`)),
      )
      const outcomes = await Promise.all(writers)
      const winners = outcomes.flatMap(({ kind }, writer) => (kind === 'stored' ? [`writer ${writer}`] : []))
      expect(winners).toEqual([text((await store.get(key)).bytes)])
    }
    await probeConditionalPut(store, seededRng(7))
    expect(await keysOf(store.list('probe/'))).toEqual([])
  })

  test('counting by compare-and-swap loses no step', async () => {
    await using store = await make()
    await store.put('counter', bytes('0'))
    const writersCount = options.swapsAtomically === false ? 1 : 4
    const increment = async (): Promise<void> => {
      for (;;) {
        const { bytes: current, etag } = await store.get('counter')
        const next = bytes(String(Number(text(current)) + 1))
        if ((await store.putIfMatch('counter', etag, next)).kind === 'stored') return
      }
    }
    const tenTimes = async (): Promise<void> => {
      for (let step = 0; step < 10; step++) await increment()
    }
    await Promise.all(Array.from({ length: writersCount }, tenTimes))
    expect(text((await store.get('counter')).bytes)).toBe(String(10 * writersCount))
  })

  test('a fired signal stops a call', async () => {
    await using store = await make()
    await store.put('k', bytes('v'))
    const signal = AbortSignal.abort()
    for (const call of [
      store.get('k', { signal }),
      store.getRange('k', 0, 1, { signal }),
      store.put('k', bytes('w'), { signal }),
      store.putIfAbsent('k2', bytes('w'), { signal }),
      store.head('k', { signal }),
      keysOf(store.list('', { signal })),
      store.delete(['k'], { signal }),
    ]) {
      await expect(call).rejects.toMatchObject({ code: 'cancelled' })
    }
    expect(text((await store.get('k')).bytes)).toBe('v')
    expect(await store.head('k2')).toBeUndefined()
  })
}
