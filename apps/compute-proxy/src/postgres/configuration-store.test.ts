// Goal: the newest configuration is kept, and beside it the last that a server took in whole. Method: files in a
// folder.
import { execFileSync } from 'node:child_process'
import { mkdir, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { ConfigurationStore, isNewer, readKept, takePublished, toMessage } from './configuration-store.ts'
import { hostFiles } from './layout.ts'

const yes = (): Promise<boolean> => Promise.resolve(true)
const no = (): Promise<boolean> => Promise.resolve(false)
const away = (): Promise<boolean> => Promise.reject(new Error('too many clients'))

test('a version is counted up with every change, and only what was taken in whole is sound', async () => {
  await using folder = await temporaryDirectory()
  const files = hostFiles(folder.path)
  await mkdir(files.pgdata)
  const say = (text: string): Promise<void> => writeFile(join(files.pgdata, 'postgresql.auto.conf'), text)
  const keeper = new ConfigurationStore(files)
  const state = async () => {
    const kept = await readKept(files)
    const textOf = (all: ReadonlyMap<string, Buffer> | undefined): string =>
      all?.get('postgresql.auto.conf')?.toString() ?? ''
    return [kept?.term, kept?.number, textOf(kept?.files), textOf(kept?.soundFiles)]
  }
  await keeper.keep(3, yes)
  expect(await readKept(files)).toBeUndefined()
  await say('a')
  await keeper.keep(3, no)
  expect(await state()).toEqual([3, 1, 'a', ''])
  await keeper.keep(3, yes)
  expect(await state()).toEqual([3, 2, 'a', 'a'])
  await keeper.keep(4, no)
  expect(await state()).toEqual([3, 2, 'a', 'a'])
  await say('b')
  await keeper.keep(4, no)
  expect(await state()).toEqual([4, 3, 'b', 'a'])
  await keeper.keep(4, no)
  expect(await state()).toEqual([4, 3, 'b', 'a'])
  await say('c')
  await keeper.keep(4, away)
  expect(await state()).toEqual([4, 4, 'c', 'a'])
  // The server has started again, and runs with it.
  await keeper.keep(5, yes)
  expect(await state()).toEqual([5, 5, 'c', 'c'])
})

test('what was published is taken where it is newer, by term first', async () => {
  await using folder = await temporaryDirectory()
  const files = hostFiles(join(folder.path, 'compute'))
  const published = (term: number, number: number, text: string) =>
    toMessage({ term, number, files: new Map([['pg_hba.conf', Buffer.from(text)]]), soundFiles: new Map() })
  const text = async () => (await readKept(files))?.files.get('pg_hba.conf')?.toString()
  await takePublished(files, published(2, 9, 'first'))
  await takePublished(files, published(2, 8, 'older'))
  expect(await text()).toBe('first')
  await takePublished(files, published(3, 1, 'later term'))
  expect(await text()).toBe('later term')
  expect(isNewer({ term: 2, number: 99 }, { term: 3, number: 1 })).toBe(false)
})

test('the target of a link in PGDATA is not kept, nor is anything but a file, nor one without an end', async () => {
  await using folder = await temporaryDirectory()
  const files = hostFiles(folder.path)
  await mkdir(files.pgdata)
  const secret = join(folder.path, 'tls.key')
  await writeFile(secret, 'the key of the installation')
  const keeper = new ConfigurationStore(files)
  const path = join(files.pgdata, 'pg_ident.conf')
  await writeFile(join(files.pgdata, 'pg_hba.conf'), 'local all all trust\n')
  for (const replace of [
    () => symlink(secret, path),
    () => symlink('/dev/zero', path),
    () => Promise.resolve(execFileSync('mkfifo', [path])),
    () => writeFile(path, '').then(() => truncate(path, 2 ** 40)),
  ]) {
    await rm(path, { force: true })
    await replace()
    await expect(keeper.keep(1, yes)).rejects.toMatchObject({ code: 'bad_file' })
    expect(await readKept(files)).toBeUndefined()
  }
  await rm(path)
  await keeper.keep(1, yes)
  expect([...((await readKept(files))?.files.keys() ?? [])]).toEqual(['pg_hba.conf'])
})
