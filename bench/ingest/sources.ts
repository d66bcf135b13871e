/** WAL of three kinds, each written by a real Postgres: what a shard starts from, and the WAL on top. */
import { join } from 'node:path'
import { fail, present } from '@understory/base'
import type { PostgresMajor } from '@understory/testcontainers'
import type pg from 'pg'
import { captureWal, makeWal } from '../redo/wal-source.ts'

/**
 * sequential  rows inserted into a table with a serial key: small records, one page after the other
 * random      single rows updated all over a table: small records, another page each
 * images      pages touched for the first time after a checkpoint: images of whole pages
 */
export type Kind = 'sequential' | 'random' | 'images'
export const KINDS: readonly Kind[] = ['sequential', 'random', 'images']
export const hasFullPageWrites = (kind: Kind): boolean => kind === 'images'

export interface Source {
  readonly kind: Kind
  /** The files of the checkpoint before the WAL, and the WAL. */
  readonly directory: string
  readonly walBytes: number
}

const ROWS = 400_000
const UPDATES_A_ROUND = 50_000

export async function makeSource(
  kind: Kind,
  major: PostgresMajor,
  root: string,
  megabytes: number,
): Promise<Source> {
  const folder = join(root, kind)
  const fullPageWrites = hasFullPageWrites(kind)
  if (kind === 'sequential')
    return { kind, ...(await makeWal({ major, load: 'insert', fullPageWrites, folder, megabytes })) }
  const captured = await captureWal({
    major,
    folder,
    fullPageWrites,
    dataChecksums: false,
    prepare: makeAccounts,
    write: (client) => writeUntil(client, megabytes * 1e6, kind === 'random' ? updateRandom : updateEachPage),
  })
  return { kind, ...captured }
}

async function makeAccounts(client: pg.Client): Promise<void> {
  await client.query(
    'create table accounts (id int primary key, n int, filler char(84)) with (fillfactor = 90)',
  )
  await client.query(`insert into accounts select g, 0, md5(g::text) from generate_series(1, ${ROWS}) g`)
  await client.query(`create table firsts as
    select min(id) as id from accounts group by (ctid::text::point)[0]::int`)
  await client.query('vacuum (freeze, analyze) accounts')
}

/** In the order of the draw, by the index. */
async function updateRandom(client: pg.Client): Promise<void> {
  await client.query('set enable_hashjoin = off; set enable_mergejoin = off; set enable_sort = off')
  await client.query(`update accounts set n = n + 1
    from (select 1 + floor(random() * ${ROWS})::int as id from generate_series(1, ${UPDATES_A_ROUND})) drawn
    where accounts.id = drawn.id`)
}

async function updateEachPage(client: pg.Client): Promise<void> {
  await client.query('checkpoint')
  await client.query('update accounts set n = n + 1 where id in (select id from firsts)')
}

async function writeUntil(
  client: pg.Client,
  bytes: number,
  round: (client: pg.Client) => Promise<void>,
): Promise<void> {
  const start = await walBytes(client)
  for (let rounds = 1; (await walBytes(client)) - start < bytes; rounds++) {
    if (rounds > 1000) throw fail('precondition', 'the load writes no WAL')
    await round(client)
  }
}

async function walBytes(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ bytes: string }>(
    `select pg_current_wal_lsn() - '0/0'::pg_lsn as bytes`,
  )
  return Number(present(rows[0], 'position').bytes)
}
