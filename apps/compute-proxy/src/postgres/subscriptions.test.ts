// Goal: a subscription that cannot be changed leaves no other one unsafe. Method: SQL as a stand-in answers it.
import type { Lsn } from '@understory/base'
import { realClock, silentLog } from '@understory/env'
import { expect, test, vi } from 'vitest'
import type { SqlTarget } from './sql.ts'
import { SubscriptionGuard } from './subscriptions.ts'

const LOCKED = 'locked'
const unsafe = new Set<string>()
const connections: string[][] = []

vi.mock('./sql.ts', () => ({
  LOOK_TIMEOUT_MS: 5_000,
  withSql: (_: SqlTarget, use: (client: unknown) => unknown) => {
    const statements: string[] = []
    connections.push(statements)
    return use({
      escapeIdentifier: (name: string) => name,
      query: async (text: string) => {
        statements.push(text)
        const changed = /^alter subscription (\w+)/.exec(text)?.[1]
        if (changed === LOCKED) throw new Error('canceling statement due to statement timeout')
        if (changed !== undefined) unsafe.delete(changed)
        return { rows: [...unsafe].map((name) => ({ oid: '1', name, database: 'd', databaseOid: '2' })) }
      },
    })
  },
}))

test('one that is locked is reported, and the others are made safe', async () => {
  for (const name of ['first', LOCKED, 'last']) unsafe.add(name)
  const guard = new SubscriptionGuard(realClock, silentLog)
  const position = { catalogLsn: 8 as Lsn, commitLsn: 8 as Lsn }
  await guard.look({} as SqlTarget, position)
  expect([...unsafe]).toEqual([LOCKED])
  expect(guard.problem).toContain('statement timeout')
  unsafe.clear()
  await guard.look({} as SqlTarget, position)
  expect(guard.problem).toBe('')
})

test('no statement waits for a lock without end', async () => {
  unsafe.add('first')
  connections.length = 0
  await new SubscriptionGuard(realClock, silentLog).look({} as SqlTarget, {
    catalogLsn: 8 as Lsn,
    commitLsn: 8 as Lsn,
  })
  expect(connections.map(([first]) => first)).toEqual([
    expect.stringMatching(/^set statement_timeout = [1-9]/),
    expect.stringMatching(/^set statement_timeout = [1-9]/),
  ])
})
