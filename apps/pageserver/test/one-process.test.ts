// Goal: a data folder has one pageserver, which a second one on it does not disturb. Method: real processes.
import { join, resolve } from 'node:path'
import { startProcess, temporaryDirectory } from '@understory/testcontainers'
import type { RunningProcess } from '@understory/testcontainers'
import { expect, test } from 'vitest'

const MAIN = resolve(import.meta.dirname, '..', 'src', 'main.ts')

function start(directory: string): Promise<RunningProcess> {
  return startProcess({
    name: 'pageserver',
    command: process.execPath,
    args: [
      '--disable-warning=ExperimentalWarning',
      MAIN,
      '--listen',
      '127.0.0.1:0',
      '--node-id',
      'ps-1',
      '--data-dir',
      join(directory, 'data'),
      '--object-store',
      join(directory, 'objects'),
      // No process listens there: a pageserver serves without a broker.
      '--broker',
      'grpc://127.0.0.1:1',
    ],
    ready: /"event":"started"|is in use/,
  })
}

test('a second pageserver on the same folder ends with the reason, and one after the first has ended starts', async () => {
  await using directory = await temporaryDirectory({ prefix: 'one' })
  await using first = await start(directory.path)
  await using second = await start(directory.path)
  expect(second.stderr()).toMatch(/data folder ".*data" is in use/)
  expect(await second.exited).toMatchObject({ code: 1 })
  expect(first.exitStatus).toBeUndefined()
  expect(await first.stop('SIGKILL')).toMatchObject({ signal: 'SIGKILL' })
  await using third = await start(directory.path)
  expect(third.output()).toContain('"event":"started"')
  expect(await third.stop()).toMatchObject({ code: 0 })
})
