// The local backend keeps the contract, between processes too, and whatever happens to a holder of its lock.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { realClock as clock, realRng as rng } from '@understory/env'
import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import { objectStoreContract } from '../contract.ts'
import { localObjectStore } from './store.ts'

const folders: string[] = []
afterEach(async () => {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true })
})

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'store-'))
  folders.push(folder)
  return folder
}

describe('local', () => {
  objectStoreContract(async () => localObjectStore(await newFolder(), { clock, rng }))

  test('a key cannot be a folder of others', async () => {
    await using store = await localObjectStore(await newFolder(), { clock, rng })
    await store.put('a/b', new Uint8Array(1))
    await expect(store.put('a', new Uint8Array(1))).rejects.toMatchObject({ code: 'precondition' })
    await expect(store.put('a/b/c', new Uint8Array(1))).rejects.toMatchObject({ code: 'precondition' })
    await expect(store.putIfAbsent('a/b/c', new Uint8Array(1))).rejects.toMatchObject({
      code: 'precondition',
    })
    await expect(store.get('a')).rejects.toMatchObject({ code: 'not_found' })
    await expect(store.get('a/b/c')).rejects.toMatchObject({ code: 'not_found' })
    expect(await store.head('a')).toBeUndefined()
    expect(await store.head('a/b/c')).toBeUndefined()
  })

  test('no draft stays, those of a crash go at a later start, deleted folders go with their last key', async () => {
    const folder = await newFolder()
    await using store = await localObjectStore(folder, { clock, rng })
    await store.put('x/y/z', new Uint8Array(3))
    await store.putIfAbsent('x/y/z', new Uint8Array(4))
    expect(await readdir(join(folder, '.drafts'))).toEqual([])
    await store.delete(['x/y/z'])
    expect(existsSync(join(folder, 'x'))).toBe(false)
    for (const name of ['old', 'young']) await writeFile(join(folder, '.drafts', name), '')
    await utimes(join(folder, '.drafts/old'), 1, 1)
    await using again = await localObjectStore(folder, { clock, rng })
    expect(await readdir(join(folder, '.drafts'))).toEqual(['young'])
    expect(await Array.fromAsync(again.list(''))).toEqual([])
  })

  test('a folder that was taken away is said to be gone', async () => {
    const folder = await newFolder()
    await using store = await localObjectStore(folder, { clock, rng })
    await rm(folder, { recursive: true })
    await expect(store.put('k', new Uint8Array(1))).rejects.toMatchObject({ code: 'precondition' })
    await expect(store.get('k')).rejects.toMatchObject({ code: 'not_found' })
  })

  test('processes that count together lose no step, though some are killed while they write', async () => {
    const folder = await newFolder()
    await using store = await localObjectStore(folder, { clock, rng })
    await store.put('counter', new TextEncoder().encode('0'))
    const stepsCount = 25
    const children = Array.from({ length: 3 }, () => startCounter(folder, stepsCount))
    // They may be done before the victim has begun.
    const exits = Promise.all(children.map(async (child) => (await once(child, 'exit'))[0] as number))
    const victim = startCounter(folder, 1_000_000)
    onTestFinished(() => [...children, victim].forEach((child) => child.kill('SIGKILL')))
    await once(victim.stdout as NodeJS.EventEmitter, 'data')
    victim.kill('SIGKILL')
    expect(await exits).toEqual([0, 0, 0])
    const counted = Number(new TextDecoder().decode((await store.get('counter')).bytes))
    const steps = (await Array.fromAsync(store.list('steps/'))).length
    // The victim may have been killed between its step and its note of it.
    expect(counted - steps).toBeGreaterThanOrEqual(0)
    expect(counted - steps).toBeLessThanOrEqual(1)
    expect(steps).toBeGreaterThanOrEqual(3 * stepsCount)
  })
})

function startCounter(folder: string, stepsCount: number): ChildProcess {
  const script = new URL('../../test/counter.ts', import.meta.url).pathname
  return spawn(process.execPath, [script, folder, String(stepsCount)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
}
