// The real disk does what its interface says, and reports errors by the closed codes.
import { existsSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { isTemporaryName, pathInside, realDisk as disk } from '@understory/env'

let root: string
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'disk-'))
})
afterEach(() => rm(root, { recursive: true, force: true }))

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (data: Uint8Array): string => new TextDecoder().decode(data)

test('a file is read and written at offsets, appended to and truncated', async () => {
  const path = join(root, 'f')
  await using file = await disk.open(path, 'createNew')
  expect(await file.append(bytes('hello'))).toBe(0)
  await file.write(7, bytes('world'))
  expect(await file.append(bytes('!'))).toBe(12)
  await file.sync()
  expect(text(await file.read(0, 100))).toBe('hello\0\0world!')
  expect(text(await file.read(7, 5))).toBe('world')
  expect((await file.read(100, 5)).length).toBe(0)
  await file.truncate(5)
  expect(await file.append(bytes('.'))).toBe(5)
  expect(await file.sizeBytes()).toBe(6)
  await disk.truncate(path, 2)
  expect(text(await disk.readFile(path))).toBe('he')
})

test('open modes', async () => {
  const path = join(root, 'f')
  await expect(disk.open(path, 'read')).rejects.toMatchObject({ code: 'not_found' })
  await expect(disk.open(path, 'readWrite')).rejects.toMatchObject({ code: 'not_found' })
  await (await disk.open(path, 'create')).close()
  await (await disk.open(path, 'create')).close()
  await expect(disk.open(path, 'createNew')).rejects.toMatchObject({ code: 'already_exists' })
  await expect(disk.open('relative', 'read')).rejects.toThrow('not absolute')
})

test('durableReplace leaves the new bytes and no temporary file', async () => {
  const path = join(root, 'f')
  await disk.durableReplace(path, bytes('one'))
  await disk.durableReplace(path, bytes('two'))
  expect(text(await disk.readFile(path))).toBe('two')
  expect(await readdir(root)).toEqual(['f'])
  await expect(disk.durableReplace(join(root, 'none/f'), bytes('x'))).rejects.toMatchObject({
    code: 'not_found',
  })
  await mkdir(join(root, 'folder/below'), { recursive: true })
  await expect(disk.durableReplace(join(root, 'folder'), bytes('x'))).rejects.toMatchObject({
    code: 'precondition',
  })
  expect(await readdir(root)).toEqual(['f', 'folder'])
})

test('the remains of a replacement that a crash cut short are removed, from any process, and nothing else', async () => {
  const kept = ['f', 'f.new', 'f.new-x', 'f.new-0123456789abcdef0']
  for (const name of [...kept, 'f.new-1-0', 'f.new-0123456789abcdef', 'g.new-12-345'])
    await writeFile(join(root, name), name)
  expect(await disk.removeLeftovers(root)).toBe(3)
  expect(await readdir(root)).toEqual(kept.sort())
  expect(await disk.removeLeftovers(root)).toBe(0)
  expect(await disk.removeLeftovers(join(root, 'none'))).toBe(0)
})

test('folders are made, listed in order, renamed and removed', async () => {
  await disk.makeDirectory(join(root, 'a/b/c'))
  await disk.makeDirectory(join(root, 'a/b/c'))
  await disk.durableReplace(join(root, 'a/z'), bytes('1'))
  for (const name of ['z.new-1-2', 'z.new-0123456789abcdef'])
    await writeFile(join(root, 'a', name), 'left by a crash')
  await disk.rename(join(root, 'a/z'), join(root, 'a/a'))
  await disk.syncDirectory(join(root, 'a'))
  expect(await disk.list(join(root, 'a'))).toEqual([
    { name: 'a', kind: 'file' },
    { name: 'b', kind: 'directory' },
  ])
  expect(await disk.stat(join(root, 'a/a'))).toMatchObject({ kind: 'file', sizeBytes: 1 })
  expect(await disk.stat(join(root, 'none'))).toBeUndefined()
  expect(await disk.remove(join(root, 'a/a'))).toBe(true)
  expect(await disk.remove(join(root, 'a/a'))).toBe(false)
  await disk.removeTree(join(root, 'a'))
  await disk.removeTree(join(root, 'a'))
  expect(existsSync(join(root, 'a'))).toBe(false)
  await expect(disk.list(join(root, 'a'))).rejects.toMatchObject({ code: 'not_found' })
  expect(await disk.freeBytes(root)).toBeGreaterThan(0)
})

test('a full disk, missing rights and a closed file have different codes', async () => {
  await using full = await disk.open('/dev/full', 'readWrite')
  await expect(full.write(0, bytes('x'))).rejects.toMatchObject({ code: 'disk_full' })
  const file = await disk.open(join(root, 'f'), 'create')
  await file.close()
  await expect(file.write(0, bytes('x'))).rejects.toMatchObject({ name: 'BugError' })
  if (process.getuid?.() !== 0) {
    await chmod(join(root, 'f'), 0)
    await expect(disk.readFile(join(root, 'f'))).rejects.toMatchObject({ code: 'precondition' })
  }
  await expect(disk.readFile(join(root, 'f/g'))).rejects.toMatchObject({ code: 'precondition' })
})

test('a path cannot leave its folder', () => {
  expect(pathInside('/data', 'a', '..', 'b')).toBe('/data/b')
  expect(() => pathInside('/data', '../database')).toThrow('leaves its folder')
  expect(() => pathInside('/data', 'a/../../etc')).toThrow('leaves its folder')
  expect(isTemporaryName('f.new-12-0')).toBe(true)
  expect(isTemporaryName('f.new')).toBe(false)
})
