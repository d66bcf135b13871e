/**
 * Goal: the command runs SQL that it has never seen, behind the whole pipeline too, passes over what Postgres refuses,
 * and reports wrong input in one line. That it notices faults is shown where the verifier is tested (libs/postgres).
 */
import { spawnSync } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import type { VersionReport } from './report.ts'

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url))
const run = (...args: readonly string[]): ReturnType<typeof spawnSync> =>
  spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8', timeout: 240_000 })

const SCRIPT = `
\\set rows 2000
create table t (i int primary key, v text);
insert into t select k, repeat('v', k % 90) from generate_series(1, :rows) k;
copy t from stdin;
9001	one; row
9002	\\N
\\.
select no_such_column from t;
create function twice() returns int language sql begin atomic select 1; select 2; end;
vacuum (freeze) t;
update t set v = v || 'x' where i % 7 = 0;
delete from t where i % 5 = 0;
select count(*) from t \\gset
\\d t
create database other;
\\c other
select * from t;
create table u as select generate_series(1, 3000) i;
create index on u using hash (i);
`

test(
  'SQL of any origin is redone and compared, through the whole pipeline too',
  { timeout: 300_000 },
  async () => {
    await using folder = await temporaryDirectory({ prefix: 'verify-redo' })
    const [script, json] = [join(folder.path, 'script.sql'), join(folder.path, 'out.json')]
    await writeFile(script, SCRIPT)
    const { status, stdout, stderr } = run('--pg', '18', '--sql', folder.path, '--json', json)
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    expect(stdout).toContain('0 differences')
    const [report] = JSON.parse(await readFile(json, 'utf8')) as [VersionReport]
    for (const { scripts, types, files, differenceCount } of report.runs) {
      expect(scripts).toMatchObject({ files: 1, errors: 2, skipped: { gset: 1, d: 1 }, sessionsLost: 0 })
      expect(types['Heap/INSERT']?.compared).toBeGreaterThan(1000)
      expect(types['Heap2/MULTI_INSERT']?.compared).toBeGreaterThan(0)
      expect(types['Hash/INSERT']?.compared).toBeGreaterThan(0)
      expect(types['Hash/INIT_META_PAGE']?.compared).toBeGreaterThan(0)
      expect(differenceCount).toBe(0)
      expect(files.holedMaps).toBeGreaterThan(10)
    }
    expect(report.pipeline).toMatchObject({ differing: 0, scripts: { errors: 2 } })
    expect(report.pipeline?.pagesIndependent).toBeGreaterThan(1000)
  },
)

test('several paths, and a tablespace that a script leaves behind', { timeout: 120_000 }, async () => {
  await using folder = await temporaryDirectory({ prefix: 'verify-redo' })
  const [one, two, json] = ['one.sql', 'two.sql', 'out.json'].map((name) => join(folder.path, name))
  await writeFile(one!, `set allow_in_place_tablespaces = on; create tablespace stays location ''`)
  await writeFile(two!, 'create table t tablespace stays as select generate_series(1, 3000) i;')
  const { status, stdout } = run('--pipeline', 'no', '--sql', one!, two!, '--json', json!)
  expect([status, stdout]).toEqual([0, expect.stringContaining('0 differences')])
  const [report] = JSON.parse(await readFile(json!, 'utf8')) as [VersionReport]
  expect(report.runs[0]?.scripts).toMatchObject({ files: 2, errors: 0 })
})

test(
  'a Postgres that does not come back ends its run, and what it wrote is still compared',
  { timeout: 120_000 },
  async () => {
    await using folder = await temporaryDirectory({ prefix: 'verify-redo' })
    const [one, two, json] = ['one.sql', 'two.sql', 'out.json'].map((name) => join(folder.path, name))
    await writeFile(
      one!,
      `create table t as select generate_series(1, 3000) i;
     create index on t using hash (i);
     copy (select 1) to program 'kill -QUIT $(head -n 1 postmaster.pid)';
     select 1;`,
    )
    await writeFile(two!, 'create table never as select 1 as i;')
    const { status, stdout } = run('--pipeline', 'no', '--sql', one!, two!, '--json', json!)
    expect([status, stdout]).toEqual([
      1,
      expect.stringMatching(/ENDED EARLY.*\n2 runs that Postgres itself/s),
    ])
    const [report] = JSON.parse(await readFile(json!, 'utf8')) as [VersionReport]
    expect(report.runs[0]?.differenceCount).toBe(0)
    expect(report.runs[0]?.types['Hash/INIT_META_PAGE']?.compared).toBeGreaterThan(0)
  },
)

test('wrong input is reported in one line', () => {
  const folder = run('--sql', '/nowhere/at/all')
  expect([folder.status, folder.stderr]).toEqual([
    2,
    expect.stringMatching(
      /^understory verify:redo: could not read "\/nowhere\/at\/all".*folder of \*\.sql\.\n$/,
    ),
  ])
  const version = run('--pg', '15')
  expect([version.status, version.stderr]).toEqual([2, expect.stringContaining('16')])
})
