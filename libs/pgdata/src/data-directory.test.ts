// Goal: a data directory is written where it is, even if another user changes it at the same time. Method: links
// between two pieces.
import { mkdir, readFile, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { DataDirectoryWriter } from './data-directory.ts'

test('a file or folder that was replaced by a link is not written through', async () => {
  await using folder = await temporaryDirectory()
  const outside = join(folder.path, 'outside')
  await mkdir(outside)
  await writeFile(join(outside, 'spec'), 'as it was')
  const root = join(folder.path, 'pgdata')
  const writer = new DataDirectoryWriter(root, undefined)
  writer.makeDirectory('base/5')
  await writer.write('base/5/1', 0, Buffer.from('page'))
  writer.close()
  await unlink(join(root, 'base/5/1'))
  await symlink(join(outside, 'spec'), join(root, 'base/5/1'))
  await expect(writer.write('base/5/1', 0, Buffer.from('page'))).rejects.toThrow('is a link')
  await rename(join(root, 'base/5'), join(root, 'base/6'))
  await symlink(outside, join(root, 'base/5'))
  await expect(writer.write('base/5/2', 0, Buffer.from('page'))).rejects.toThrow('is a link')
  expect(() => writer.makeDirectory('base/5/x')).toThrow('is a link')
  writer.discard()
  expect(await readFile(join(outside, 'spec'), 'utf8')).toBe('as it was')
  await rm(outside, { recursive: true })
})

test('a data directory that is itself a link is refused', async () => {
  await using folder = await temporaryDirectory()
  await mkdir(join(folder.path, 'outside'))
  await symlink(join(folder.path, 'outside'), join(folder.path, 'pgdata'))
  const writer = new DataDirectoryWriter(join(folder.path, 'pgdata'), undefined)
  expect(() => writer.makeDirectory('base')).toThrow('is a link')
})
