/**
 * Pages with long chains, made by a real Postgres with full_page_writes off: a table for each length, of which every
 * page gets one update a round. The rounds of a table are spread over phases, after each of which the layer is to be
 * frozen, so that a long chain lies in several layers as that of a table that lives does.
 */
import { parseLsn, present } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresMajor } from '@understory/testcontainers'
import type pg from 'pg'
import { captureWal } from '../redo/wal-source.ts'

export interface ChainTable {
  /** Updates that each page got; pruning adds records to long chains. */
  readonly updates: number
  readonly spcOid: number
  readonly dbOid: number
  readonly rel: number
  readonly blocks: number
}

export interface Chains {
  /** The files of a checkpoint before the first update, and the WAL of all updates. */
  readonly directory: string
  readonly tables: readonly ChainTable[]
  /** Where each phase ends. */
  readonly phaseEnds: readonly Lsn[]
}

export interface ChainsOptions {
  readonly major: PostgresMajor
  readonly folder: string
  readonly lengths: readonly number[]
  /** Of each table. */
  readonly pages: number
  readonly phases: number
}

const DEFAULT_TABLESPACE_OID = 1663
const FILL_PERCENT = 30
/** Of a row of 113 bytes with its pointer. */
const ROWS_A_PAGE = 21

export async function makeChains(options: ChainsOptions): Promise<Chains> {
  const { major, folder, lengths, pages, phases } = options
  let tables: readonly ChainTable[] = []
  const phaseEnds: Lsn[] = []
  const { directory } = await captureWal({
    major,
    folder,
    fullPageWrites: false,
    dataChecksums: true,
    prepare: async (client) => {
      const made: ChainTable[] = []
      for (const updates of lengths) made.push(await makeTable(client, updates, pages))
      tables = made
    },
    write: async (client) => {
      for (let phase = 0; phase < phases; phase++) {
        for (const updates of roundsOf(lengths, phase, phases)) await updateEachPage(client, updates)
        phaseEnds.push(await walPosition(client))
      }
    },
  })
  return { directory, tables, phaseEnds }
}

/** By whose turn it is: the rounds of a phase, those of the tables mixed. */
export function roundsOf(lengths: readonly number[], phase: number, phases: number): number[] {
  const turns: { readonly at: number; readonly updates: number }[] = []
  for (const updates of lengths) {
    const from = Math.floor((updates * phase) / phases)
    const to = Math.floor((updates * (phase + 1)) / phases)
    for (let round = from; round < to; round++)
      turns.push({ at: (round - from + 0.5) / (to - from), updates })
  }
  return turns.sort((a, b) => a.at - b.at).map(({ updates }) => updates)
}

const nameOf = (updates: number): string => `chain_${updates}`

async function makeTable(client: pg.Client, updates: number, pages: number): Promise<ChainTable> {
  const name = nameOf(updates)
  await client.query(
    `create table ${name} (id int, n int, filler char(72)) with (fillfactor = ${FILL_PERCENT})`,
  )
  await client.query(
    `insert into ${name} select g, 0, md5(g::text) from generate_series(1, ${pages * ROWS_A_PAGE}) g`,
  )
  await client.query(`create table ${name}_first as
    select min(id) as id from ${name} group by (ctid::text::point)[0]::int`)
  const { rows } = await client.query<{ node: number; db: number; blocks: number }>(
    `select pg_relation_filenode('${name}')::int as node, oid::int as db,
       (pg_relation_size('${name}') / 8192)::int as blocks
     from pg_database where datname = current_database()`,
  )
  const { node, db, blocks } = present(rows[0], 'table')
  return { updates, spcOid: DEFAULT_TABLESPACE_OID, dbOid: db, rel: node, blocks }
}

async function updateEachPage(client: pg.Client, updates: number): Promise<void> {
  const name = nameOf(updates)
  await client.query(`update ${name} set n = n + 1 where id in (select id from ${name}_first)`)
}

async function walPosition(client: pg.Client): Promise<Lsn> {
  const { rows } = await client.query<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn')
  return parseLsn(present(rows[0], 'position').lsn)
}
