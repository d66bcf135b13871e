// Goal: a compute that the release before had keeps its port and its user's configuration. Method: files as that
// release wrote them.
import { access, mkdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { takeOverState } from './earlier-layout.ts'
import { readKept } from '../postgres/configuration-store.ts'
import { hostFiles } from '../postgres/layout.ts'
import { NOTHING_REMEMBERED, readState } from '../compute/state-file.ts'

const stateText = (sqlPort: number, term: number): string =>
  `${JSON.stringify({ version: 1, born: true, sqlPort, term })}\n`
const keptText = (rules: string, term: number): string => {
  const files = { 'pg_hba.conf': Buffer.from(rules).toString('base64') }
  return `${JSON.stringify({ version: 1, term, number: 1, files })}\n`
}

test('state beside PGDATA is taken over where it is newer, and gone from there', async () => {
  await using folder = await temporaryDirectory()
  const files = hostFiles(folder.path)
  const seen = async () => {
    await takeOverState(files)
    for (const name of ['state.json', 'configuration.json'])
      await expect(access(join(folder.path, name))).rejects.toThrow('ENOENT')
    const rules = (await readKept(files))?.files.get('pg_hba.conf')?.toString()
    return [(await readState(files.state)).sqlPort, rules]
  }
  const writeBeside = async (sqlPort: number, rules: string, term: number): Promise<void> => {
    await writeFile(join(folder.path, 'state.json'), stateText(sqlPort, term))
    await writeFile(join(folder.path, 'configuration.json'), keptText(rules, term))
  }
  expect(await seen()).toEqual([NOTHING_REMEMBERED.sqlPort, undefined])
  await writeBeside(5_433, 'first', 7)
  expect(await seen()).toEqual([5_433, 'first'])
  // That release has run again since then.
  await writeBeside(5_434, 'second', 9)
  expect(await seen()).toEqual([5_434, 'second'])
  // One of its processes was late.
  await writeBeside(5_433, 'first', 8)
  expect(await seen()).toEqual([5_434, 'second'])
})

test('a file that this program did not write is left alone', async () => {
  await using folder = await temporaryDirectory()
  const files = hostFiles(join(folder.path, 'compute'))
  await mkdir(files.shared)
  await writeFile(join(folder.path, 'elsewhere'), stateText(1, 1))
  await symlink(join(folder.path, 'elsewhere'), join(files.shared, 'state.json'))
  await takeOverState(files)
  expect(await readState(files.state)).toEqual(NOTHING_REMEMBERED)
})
