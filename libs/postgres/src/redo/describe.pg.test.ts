/**
 * Record types have the names that Postgres itself gives them, and transaction records say what its own description
 * says. Checked record by record against pg_walinspect over a history with every kind of index.
 */
import { formatLsn } from '@understory/base'
import { expect, test } from 'vitest'
import { recordHistory } from '../../test/verify-server.ts'
import { RM_XACT_ID } from '../wal/constants.ts'
import type { PgMajor } from '../wal/pages.ts'
import type { DecodedRecord, RelFile } from '../wal/record.ts'
import { recordTypeName } from './dispatch.ts'
import { ParsedXact, gidOf, maxXidOf, parseXact, relFileAt, subxactAt } from './xact/parse.ts'
import { XLOG_XACT_OPMASK, XLOG_XACT_PREPARE } from './xact/records.ts'

const STATEMENTS = [
  `create extension pg_walinspect`,
  `create table t (id int primary key, p point, a int[], s text)`,
  `create index t_gist on t using gist (p)`,
  `create index t_gin on t using gin (a)`,
  `create index t_spgist on t using spgist (s)`,
  `create index t_brin on t using brin (id) with (pages_per_range = 2)`,
  `create index t_hash on t using hash (id)`,
  `insert into t select g, point(g % 50, g), array[g % 9, g], md5(g::text) from generate_series(1, 3000) g`,
  `update t set s = s || 'x' where id % 3 = 0`,
  `delete from t where id % 5 = 0`,
  `vacuum (freeze) t`,
  `begin`,
  `create table gone1 (id int primary key)`,
  `savepoint a`,
  `insert into gone1 values (1)`,
  `savepoint b`,
  `insert into gone1 values (2)`,
  `release a`,
  `commit`,
  `drop table gone1`,
  `begin`,
  `create table kept1 (id serial)`,
  `savepoint a`,
  `insert into kept1 default values`,
  `prepare transaction 'of a name'`,
  `commit prepared 'of a name'`,
  `begin`,
  `create table undone (id int)`,
  `prepare transaction 'other'`,
  `rollback prepared 'other'`,
  `begin`,
  `create table never (id int)`,
  `insert into never values (1)`,
  `rollback`,
  `vacuum full pg_class`,
  `create database d`,
  `drop database d`,
  `select pg_logical_emit_message(true, 'prefix', 'content')`,
  `checkpoint`,
]

interface Inspected {
  readonly start_lsn: string
  readonly resource_manager: string
  readonly record_type: string
  readonly description: string
}

const parsed = new ParsedXact()
const rel: RelFile = { spcOid: 0, dbOid: 0, relNumber: 0 }

const listed = (description: string, label: string): string[] =>
  new RegExp(`${label}: ([^;]*)`).exec(description)?.[1]?.trim().split(' ') ?? []

/** Compares subtransactions, relations and the prepared transaction's name with Postgres's description. */
function compareXact(record: DecodedRecord, major: PgMajor, description: string): void {
  parseXact(record, major, parsed)
  const isPrepare = (record.info & XLOG_XACT_OPMASK) === XLOG_XACT_PREPARE
  const subxacts = Array.from({ length: parsed.subxactsCount }, (_, i) =>
    String(subxactAt(record, parsed, i)),
  )
  expect(subxacts).toEqual(listed(description, 'subxacts'))
  for (const xid of subxacts) expect(maxXidOf(record, major)).toBeGreaterThanOrEqual(Number(xid))
  const relations = (offset: number, count: number): string[] =>
    Array.from({ length: count }, (_, i) => {
      const { dbOid, relNumber } = relFileAt(record, offset, i, rel)
      return `base/${dbOid}/${relNumber}`
    })
  expect(relations(parsed.relsOffset, parsed.relsCount)).toEqual(
    listed(description, isPrepare ? 'rels\\(commit\\)' : 'rels'),
  )
  expect(relations(parsed.abortRelsOffset, parsed.abortRelsCount)).toEqual(
    listed(description, 'rels\\(abort\\)'),
  )
  expect(parsed.statsCount).toBe(
    listed(description, isPrepare ? 'commit dropped stats' : 'dropped stats').length,
  )
  if (isPrepare) expect(description).toContain(`gid ${gidOf(record, parsed)}`)
}

test.for([16, 17, 18] as const)('names and transactions as PostgreSQL %i describes them', async (major) => {
  let inspected: Inspected[] = []
  await using history = await recordHistory({
    major,
    settings: { wal_consistency_checking: '' },
    workload: async ({ client }) => {
      await client.query('checkpoint')
      const { rows } = await client.query<{ lsn: string }>('select pg_current_wal_insert_lsn() as lsn')
      for (const sql of STATEMENTS) await client.query(sql)
      inspected = (
        await client.query<Inspected>(
          `select start_lsn, resource_manager, record_type, description
         from pg_get_wal_records_info($1, pg_current_wal_flush_lsn())`,
          [rows[0]?.lsn],
        )
      ).rows
    },
  })
  const byLsn = new Map(inspected.map((row) => [row.start_lsn, row]))
  let compared = 0
  const managers = new Set<string>()
  for (const record of history.records()) {
    const row = byLsn.get(formatLsn(record.recordLsn))
    if (row === undefined) continue
    expect(recordTypeName(record, history.settings)).toBe(`${row.resource_manager}/${row.record_type}`)
    if (record.rmid === RM_XACT_ID && !/^(INVALIDATION|ASSIGNMENT)/.test(row.record_type)) {
      compareXact(record, major, row.description)
    }
    managers.add(row.resource_manager)
    compared++
  }
  expect(compared).toBe(inspected.length)
  expect(compared).toBeGreaterThan(10_000)
  expect(managers.size).toBeGreaterThanOrEqual(15)
})
