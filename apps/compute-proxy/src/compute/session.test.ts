// Goal: no Postgres that hangs keeps a session from its end, once its deadline is over or its lead is lost (I2).
// Method: a Postgres that answers nothing, and promises in place of its processes.
import type { Lsn } from '@understory/base'
import { realClock, silentLog } from '@understory/env'
import { expect, test, vi } from 'vitest'
import type { PostmasterEnd } from '../postgres/launcher.ts'
import type { ComputeContext } from './context.ts'
import { openSession, stopSession } from './session.ts'
import type { Session } from './session.ts'

const never = new Promise<never>(() => undefined)
const FENCED = { kind: 'fenced', term: 7 } as const

vi.mock('../postgres/sql.ts', () => ({
  waitUntilSynchronous: () => Promise.resolve(),
  withSql: () => never,
  reloadConfiguration: () => never,
}))
vi.mock('../postgres/unlogged-indexes.ts', () => ({
  UnloggedIndexes: class {
    rebuild(): Promise<void> {
      return Promise.resolve()
    }
  },
}))
vi.mock('../postgres/configuration.ts', () => ({ writeGate: () => undefined }))

function hangingSession() {
  const lost = Promise.withResolvers<typeof FENCED>()
  const exited = Promise.withResolvers<PostmasterEnd>()
  const signals: string[] = []
  const postmaster = { exited: exited.promise, signal: (name: string) => signals.push(name) }
  const proposer = { lost: lost.promise, commitLsn: 8 as Lsn }
  const receiver = { committed: () => Promise.resolve(), receivedLsn: 8 as Lsn }
  const session = { kind: 'rebuild', postmaster, proposer, receiver, streaming: never, emptyInitForks: [] }
  return { session: session as unknown as Session, lost, exited, signals }
}

const endParts = { clock: realClock, log: silentLog, prepare: () => never }

test('a stop whose preparation hangs ends at its deadline, without a wait for the quorum', async () => {
  const { session, signals } = hangingSession()
  expect(await stopSession(session, 50, endParts)).toBe(false)
  expect(signals).toEqual(['SIGQUIT'])
})

test('a stop whose preparation hangs ends where the lead is lost', async () => {
  const { session, lost, signals } = hangingSession()
  const stopped = stopSession(session, 600_000, endParts)
  lost.resolve(FENCED)
  expect(await stopped).toBe(false)
  expect(signals).toEqual(['SIGQUIT'])
})

test.each(['lead', 'postgres'])('letting clients in ends where its %s is lost', async (what) => {
  const { session, lost, exited } = hangingSession()
  const context = {
    server: { target: {} },
    clock: realClock,
    log: silentLog,
    signal: new AbortController().signal,
    files: { shared: '/nonexistent', log: 'log' },
  } as unknown as ComputeContext
  const opened = openSession(context, session)
  // By then it waits for an answer to its first statement.
  await new Promise((resolve) => setImmediate(resolve))
  if (what === 'lead') lost.resolve(FENCED)
  else exited.resolve({ kind: 'exited', code: 1 })
  await expect(opened).rejects.toThrow(what === 'lead' ? /./ : 'ended with exit code 1')
})
