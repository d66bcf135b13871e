// Goal: what could not be made durable does not count as remembered, and is written at the next try. Method: a folder
// that is taken away.
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { ComputeMemory, NOTHING_REMEMBERED, readState } from './state-file.ts'

test('a change is durable or did not happen, and what is there already is not written again', async () => {
  await using folder = await temporaryDirectory()
  const own = join(folder.path, 'own')
  const path = join(own, 'state.json')
  const memory = new ComputeMemory(path, NOTHING_REMEMBERED)
  memory.remember({ term: 3 })
  expect(await readState(path)).toEqual({ ...NOTHING_REMEMBERED, term: 3 })
  const { ino } = await stat(path)
  memory.remember({ term: 3 })
  expect((await stat(path)).ino).toBe(ino)
  await rm(own, { recursive: true })
  await writeFile(own, '')
  expect(() => memory.remember({ term: 4 })).toThrow()
  expect(memory.state.term).toBe(3)
  await rm(own)
  await mkdir(own)
  memory.remember({ term: 4 })
  expect(JSON.parse(await readFile(path, 'utf8'))).toMatchObject({ term: 4 })
})
