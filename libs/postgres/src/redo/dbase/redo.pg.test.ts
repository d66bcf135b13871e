/**
 * What a real Postgres does to directories and whole relations is reported as it happened: databases of both
 * strategies, tablespaces, files that appear, shrink and go.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { runCommand, temporaryDirectory, unprivilegedUser } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { recordHistory } from '../../../test/verify-server.ts'
import { recordEffects } from '../dispatch.ts'
import type { EffectSink } from '../types.ts'

/** Every call but those about pages and two-phase files, one line each. */
function writeDown(lines: string[]): EffectSink {
  const rel = ({ spcOid, dbOid, relNumber }: { spcOid: number; dbOid: number; relNumber: number }): string =>
    `${spcOid}/${dbOid}/${relNumber}`
  return {
    visibilityClear: () => {},
    slruPage: () => {},
    slruTruncate: () => {},
    twoPhasePrepare: () => {},
    twoPhaseRemove: () => {},
    originAdvance: () => {},
    originDrop: () => {},
    relationCreate: (r, fork) => lines.push(`create ${rel(r)} ${fork}`),
    relationTruncate: (r, fork, blocks) => lines.push(`truncate ${rel(r)} ${fork} to ${blocks}`),
    relationDrop: (r) => lines.push(`drop ${rel(r)}`),
    databaseCopy: (...oids) => lines.push(`copy database ${oids.join(' ')}`),
    databaseCreate: (...oids) => lines.push(`create database ${oids.join(' ')}`),
    databaseDrop: (...oids) => lines.push(`drop database ${oids.join(' ')}`),
    relationMap: (dbOid, spcOid, content) => lines.push(`map ${dbOid} ${spcOid} of ${content.length} bytes`),
    tablespaceCreate: (spcOid, path) => lines.push(`create tablespace ${spcOid} ${path}`),
    tablespaceDrop: (spcOid) => lines.push(`drop tablespace ${spcOid}`),
  }
}

test.for([16, 17, 18] as const)('directories and files of PostgreSQL %i', async (major) => {
  const user = unprivilegedUser()
  await using home = await temporaryDirectory({
    prefix: 'tablespace',
    ...(user === undefined ? {} : { owner: user }),
  })
  const path = join(home.path, 'space')
  await mkdir(path)
  if (user !== undefined)
    await runCommand({ name: 'chown', command: 'chown', args: [`${user.uid}:${user.gid}`, path] })
  const oids: Record<string, number> = {}
  await using history = await recordHistory({
    major,
    workload: async ({ client }) => {
      const oid = async (name: string, sql: string): Promise<void> => {
        oids[name] = Number((await client.query<{ oid: string }>(`select (${sql})::oid as oid`)).rows[0]?.oid)
      }
      await client.query(`create tablespace space location '${path}'`)
      await oid('space', `select oid from pg_tablespace where spcname = 'space'`)
      await client.query(`create database logged strategy wal_log`)
      await client.query(`create database copied tablespace space strategy file_copy`)
      await oid('logged', `select oid from pg_database where datname = 'logged'`)
      await oid('copied', `select oid from pg_database where datname = 'copied'`)
      await client.query(`create table t tablespace space as select generate_series(1, 3000)`)
      await oid('t', `select pg_relation_filenode('t')`)
      await oid('postgres', `select oid from pg_database where datname = 'postgres'`)
      await client.query(`delete from t where generate_series > 1000`)
      await client.query(`vacuum t`)
      await client.query(`drop table t`)
      await client.query(`drop database copied`)
      await client.query(`drop database logged`)
      await client.query(`vacuum full pg_class`)
      await client.query(`drop tablespace space`)
    },
  })
  const lines: string[] = []
  const sink = writeDown(lines)
  for (const record of history.records()) recordEffects(record, sink, history.settings)
  const relation = `${oids['space']}/${oids['postgres']}/${oids['t']}`
  const about = lines.filter((line) => !/^(create|drop) \d/.test(line) || line.includes(relation))
  expect(about).toEqual([
    `create tablespace ${oids['space']} ${path}`,
    `create database ${oids['logged']} 1663`,
    `map ${oids['logged']} 1663 of 524 bytes`,
    `copy database ${oids['copied']} ${oids['space']} 1 1663`,
    `create ${relation} 0`,
    `truncate ${relation} 1 to 3`,
    `truncate ${relation} 2 to 1`,
    `truncate ${relation} 0 to 5`,
    `drop ${relation}`,
    `drop database ${oids['copied']} ${oids['space']}`,
    `drop database ${oids['logged']} 1663`,
    `map ${oids['postgres']} 1663 of 524 bytes`,
    `drop tablespace ${oids['space']}`,
  ])
})
