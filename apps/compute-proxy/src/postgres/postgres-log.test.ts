// Goal: an operator learns why a Postgres ended, and nothing of what its tenant keeps in it. Method: lines as Postgres
// writes them.
import { mkdir, writeFile } from 'node:fs/promises'
import { describeError } from '@understory/base'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { hostFiles } from './layout.ts'
import { messageTemplate, shownMessages, withoutValues } from './postgres-log.ts'
import { endedError } from './postgres.ts'

const AT = '2026-11-29 08:00:00.123 UTC [4711]'

test.each([
  [`${AT} ERROR:  duplicate key value violates unique constraint "t_pkey"`],
  [`${AT} DETAIL:  Key (email)=(hunter2@example.org) already exists.`],
  [`${AT} STATEMENT:  ALTER ROLE boss PASSWORD 'hunter2'`],
  [`${AT} LOG:  statement: ALTER ROLE boss PASSWORD 'hunter2'`],
  [`${AT} LOG:  duration: 3 ms  parameters: $1 = 'hunter2'`],
  [`${AT} STATEMENT:  select 'FATAL:  hunter2'`],
  [`${AT} ERROR:  hunter2 FATAL:  hunter2`],
  [`${AT} STATEMENT:  select 1,\n\tFATAL:  hunter2`],
  [`${AT} WARNING:  hunter2`],
  [`${AT} CONTEXT:  COPY t, line 1: "hunter2"`],
])('%j is not shown', (line) => {
  expect(shownMessages(line)).toEqual([])
})

test.each([
  [
    `${AT} FATAL:  could not access file "nothing_of_that_name": No such file or directory`,
    'could not access file "…": No such file or directory',
  ],
  [`${AT} FATAL:  role "hunter2" does not exist`, 'role "…" does not exist'],
  [
    `${AT} LOG:  invalid value for parameter "work_mem": "hunter2"`,
    'invalid value for parameter "work_mem": "…"',
  ],
  [
    `${AT} LOG:  syntax error in file "/c/pgdata/postgresql.conf" line 3, near token "hunter2"`,
    'syntax error in file "…" line 3, near token "…"',
  ],
  [
    `${AT} LOG:  could not bind IPv4 address "127.0.0.1": Address already in use`,
    'could not bind IPv4 address "127.0.0.1": Address already in use',
  ],
  [
    `${AT} PANIC:  could not write to file "pg_wal/xlogtemp.7": No space left on device`,
    'could not write to file "…": No space left on device',
  ],
  [
    'postgres: FATAL:  data directory "/c/pgdata" has wrong ownership',
    'data directory "…" has wrong ownership',
  ],
])('%j is shown as its template', (line, shown) => {
  expect(shownMessages(`${line}\n`)).toEqual([shown])
})

test('a message has no quoted value, however its quotes stand, and no control character', () => {
  expect(messageTemplate('a "b" c "hunter2')).toBe('a "…" c "…"')
  expect(messageTemplate('parameter "x; hunter2" is')).toBe('parameter "…" is')
  expect(messageTemplate('parameter "hunter2')).toBe('parameter "…"')
  expect(messageTemplate('\u001b]52;c;aGk=\u0007 title')).toBe(' ]52;c;aGk=  title')
})

test('neither the end of a Postgres nor the error of a session has a statement or a value', async () => {
  await using folder = await temporaryDirectory()
  const files = hostFiles(folder.path)
  await mkdir(files.pgdata)
  await writeFile(
    files.log,
    `${AT} ERROR:  hunter2\n${AT} STATEMENT:  ALTER ROLE boss PASSWORD 'hunter2'\n${AT} PANIC:  hit a bug in "hunter2"\n`,
  )
  const ended = describeError(await endedError(files, { kind: 'signalled', signal: 'SIGABRT' }))
  expect(ended).toContain('postgres was ended by SIGABRT (hit a bug in "…")')
  expect(ended).not.toContain('hunter2')
  const said = { severity: 'ERROR', code: 'P0001', detail: 'hunter2', where: 'hunter2' }
  const shown = withoutValues(Object.assign(new Error('hunter2'), said)) as Error
  expect(JSON.stringify([shown, shown.message, shown.stack])).not.toContain('hunter2')
  expect(shown).toMatchObject({ message: 'Postgres says ERROR (SQLSTATE P0001)', code: 'P0001' })
})
