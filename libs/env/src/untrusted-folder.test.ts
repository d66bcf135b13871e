// Goal: a folder that another user writes to leads nowhere else. Method: links, FIFOs and devices where files are
// expected.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, constants, existsSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { link, mkdir, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { listWithin, makeFolderWithin, openWithin, readWithin, replaceWithin } from './untrusted-folder.ts'

const options = { bytesMax: 1_000 }

async function folder(): Promise<{ root: string; outside: string }> {
  const made = await temporaryDirectory()
  onTestFinished(() => made[Symbol.asyncDispose]())
  const root = join(made.path, 'pgdata')
  const outside = join(made.path, 'outside')
  await mkdir(join(root, 'base'), { recursive: true })
  await mkdir(outside)
  await writeFile(join(outside, 'secret'), 'the key')
  return { root, outside }
}

test('a file is read, and one that is not there is none', async () => {
  const { root } = await folder()
  await writeFile(join(root, 'base/1'), 'page')
  expect((await readWithin(root, 'base/1', options))?.toString()).toBe('page')
  expect(await readWithin(root, 'base/2', options)).toBeUndefined()
  expect(await readWithin(root, 'nowhere/2', options)).toBeUndefined()
})

test('a link is refused, as a file and as any folder on the way', async () => {
  const { root, outside } = await folder()
  await symlink(join(outside, 'secret'), join(root, 'conf'))
  await expect(readWithin(root, 'conf', options)).rejects.toMatchObject({ code: 'bad_file' })
  await rm(join(root, 'base'), { recursive: true })
  await symlink(outside, join(root, 'base'))
  await expect(readWithin(root, 'base/secret', options)).rejects.toMatchObject({ code: 'bad_file' })
  expect(() => listWithin(root, 'base')).toThrow('is a link')
  await symlink(root, `${root}.link`)
  await expect(readWithin(`${root}.link`, 'conf', options)).rejects.toMatchObject({ code: 'bad_file' })
})

test.each(['fifo', 'device', 'folder'])('a %s is refused without a wait for it', async (kind) => {
  const { root } = await folder()
  const path = join(root, 'conf')
  if (kind === 'fifo') execFileSync('mkfifo', [path])
  else if (kind === 'folder') await mkdir(path)
  else if (process.geteuid?.() === 0) execFileSync('mknod', [path, 'c', '1', '5'])
  else return
  await expect(readWithin(root, 'conf', options)).rejects.toThrow('is not a regular file')
})

test('a file that is too large is refused before it is read', async () => {
  const { root } = await folder()
  await writeFile(join(root, 'conf'), '')
  await truncate(join(root, 'conf'), 1024 ** 4)
  await expect(readWithin(root, 'conf', options)).rejects.toThrow('is too large')
})

test.runIf(process.geteuid?.() === 0)('a file of another user is refused, as a hard link is', async () => {
  const { root, outside } = await folder()
  chownSync(root, 999, 999)
  await link(join(outside, 'secret'), join(root, 'conf'))
  await expect(readWithin(root, 'conf', options)).rejects.toThrow('belongs to another user')
  chownSync(join(outside, 'secret'), 999, 999)
  expect((await readWithin(root, 'conf', options))?.toString()).toBe('the key')
})

test('a written file lands in the folder, whatever has its name', async () => {
  const { root, outside } = await folder()
  for (const name of ['conf', 'conf.new']) await symlink(join(outside, 'secret'), join(root, name))
  replaceWithin(root, 'conf', 'rules', undefined)
  expect(readFileSync(join(root, 'conf'), 'utf8')).toBe('rules')
  expect(readFileSync(join(outside, 'secret'), 'utf8')).toBe('the key')
  expect(existsSync(join(root, 'conf.new'))).toBe(false)
  await rm(join(root, 'base'), { recursive: true })
  await symlink(outside, join(root, 'base'))
  expect(() => replaceWithin(root, 'base/secret', 'x', undefined)).toThrow('is a link')
  expect(() => makeFolderWithin(root, 'base/made', undefined)).toThrow('is a link')
  expect(() => openWithin(root, 'base/secret', constants.O_RDWR)).toThrow('is a link')
  expect(existsSync(join(outside, 'made'))).toBe(false)
})

test('a tablespace is a link that is followed where it leads to the same owner, and only there', async () => {
  const { root, outside } = await folder()
  await mkdir(join(root, 'pg_tblspc'))
  await symlink(outside, join(root, 'pg_tblspc/16400'))
  expect((await readWithin(root, 'pg_tblspc/16400/secret', options))?.toString()).toBe('the key')
  expect(listWithin(root, 'pg_tblspc')).toMatchObject([{ name: '16400', kind: 'link' }])
  expect(listWithin(root, 'pg_tblspc/16401')).toEqual([])
  if (process.geteuid?.() !== 0) return
  chownSync(root, 999, 999)
  expect(() => listWithin(root, 'pg_tblspc/16400')).toThrow('is a link')
})

test('a folder that is replaced by a link at any moment leads nowhere else', async () => {
  const { root, outside } = await folder()
  writeFileSync(join(root, 'base/secret'), 'own')
  symlinkSync(outside, join(root, 'link'))
  const swap = `
    const { renameSync } = require('node:fs')
    for (;;) {
      renameSync('base', 'apart')
      renameSync('link', 'base')
      renameSync('base', 'link')
      renameSync('apart', 'base')
    }`
  const swapping = spawn(process.execPath, ['-e', swap], { cwd: root, stdio: 'ignore' })
  const ended = once(swapping, 'exit')
  const seen = new Set<string>()
  const refused = new Set<unknown>()
  while (refused.size === 0 || seen.size === 0) {
    for (let i = 0; i < 1_000; i++) {
      const text = await readWithin(root, 'base/secret', options).catch((error: unknown) => {
        refused.add((error as { code: unknown }).code)
      })
      if (text !== undefined) seen.add(text.toString())
    }
  }
  swapping.kill('SIGKILL')
  await ended
  expect([...refused]).toEqual(['bad_file'])
  expect([...seen]).toEqual(['own'])
})
