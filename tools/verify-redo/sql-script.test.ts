/** Goal: scripts come apart where psql takes them apart. */
import { expect, test } from 'vitest'
import { SqlScript } from './sql-script.ts'

const steps = (text: string, environment = {}): unknown[] => [...new SqlScript(text, environment).steps()]
const statements = (text: string): string[] =>
  steps(text).flatMap((step) =>
    (step as { sql?: string }).sql === undefined ? [] : [(step as { sql: string }).sql],
  )

test('semicolons in quotes, comments, parentheses and bodies end nothing', () => {
  const script = `
    select 'a;''b', "c;d", $$ e; $$, $x$ f; $$ ; $x$ -- g;
      /* h; /* i; */ j; */ ; select E'it\\';' ; create rule r as on insert to t do (select 1; select 2);
    create or replace function f() returns int begin atomic select case when true then 1 end; select 2; end;
    create function g() returns int language sql as 'select 1;'; begin; end; select 1`
  expect(statements(script)).toEqual([
    `select 'a;''b', "c;d", $$ e; $$, $x$ f; $$ ; $x$`,
    `select E'it\\';'`,
    `create rule r as on insert to t do (select 1; select 2)`,
    `create or replace function f() returns int begin atomic select case when true then 1 end; select 2; end`,
    `create function g() returns int language sql as 'select 1;'`,
    'begin',
    'end',
    'select 1',
  ])
})

test('COPY takes the lines that follow', () => {
  expect(
    steps('copy t from stdin;\n1\ta;b\n2\t\\N\n\\.\nselect 1;\n\\copy t from stdin\n3\n\\.\nselect 2;'),
  ).toEqual([
    { kind: 'statement', sql: 'copy t from stdin', copyData: '1\ta;b\n2\t\\N\n' },
    { kind: 'statement', sql: 'select 1' },
    { kind: 'statement', sql: 'copy t from stdin', copyData: '3\n' },
    { kind: 'statement', sql: 'select 2' },
  ])
})

test('variables are substituted where they are set', () => {
  const script = `\\set n 5\n\\set name 'it''s' :n\n\\getenv path THERE
    select :n, :'name', :"name", a::int, x[1:2], :unknown, :{?n}, ':n';`
  expect(steps(script, { THERE: '/x' })).toEqual([
    { kind: 'statement', sql: `select 5, 'it''s5', "it's5", a::int, x[1:2], :unknown, TRUE, ':n'` },
  ])
})

test('backslash commands are followed or reported', () => {
  expect(
    steps('select 1 \\gset\n\\d t\nselect 2 \\; select 3;\n\\c other\n\\c -\nselect 4 \\bind 1 \\g\n'),
  ).toEqual([
    { kind: 'skipped', command: 'gset' },
    { kind: 'statement', sql: 'select 1' },
    { kind: 'skipped', command: 'd' },
    { kind: 'statement', sql: 'select 2 ; select 3' },
    { kind: 'connect', database: 'other' },
    { kind: 'connect', database: undefined },
    { kind: 'skipped', command: 'bind' },
    { kind: 'statement', sql: 'select 4' },
  ])
})
