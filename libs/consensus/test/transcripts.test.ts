/**
 * Goal: what the machines say and do in the stories that matter (elections, commits, cuts, changes of membership,
 * adoption) is there to read, and a change of it is seen. Method: the commands in testdata/*.txt are played, and what
 * comes of them is compared. `npm test -- libs/consensus/test -u` writes the files again.
 */
import { readFile, readdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'
import { Transcript } from './transcript.ts'

const FOLDER = resolve(import.meta.dirname, '../testdata')
const names = (await readdir(FOLDER)).filter((name) => name.endsWith('.txt'))

test('there are transcripts', () => {
  expect(names).toEqual(
    expect.arrayContaining([
      'adopt.txt',
      'append-commit.txt',
      'election.txt',
      'membership.txt',
      'no-room.txt',
      'term-change.txt',
      'truncation.txt',
    ]),
  )
})

test.each(names)('%s', async (name) => {
  const path = join(FOLDER, name)
  await expect(Transcript.replay(await readFile(path, 'utf8'))).toMatchFileSnapshot(path)
})
