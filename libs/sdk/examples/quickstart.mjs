// From nothing to a page at an LSN: a tenant with its own PostgreSQL, a table, full_page_writes switched off live, one
// block read from storage, and the WAL that made it.
//
//   npm install @understory/sdk pg
//   node quickstart.mjs 127.0.0.1:7400
import { createClient, pageLsn } from '@understory/sdk'
import pg from 'pg'

const endpoint = process.argv[2] ?? '127.0.0.1:7400'
const name = process.argv[3] ?? 'quickstart'
const client = createClient({ endpoint, token: process.env.UNDERSTORY_TOKEN })

// The password is kept nowhere: it is shown this once.
const { password } = await client.createTenant({ name, postgresMajor: 17 })
const connectionString = await client.waitForSql(name, { password, onProgress: (line) => console.log(line) })
console.log(connectionString)

// Encrypted, as psql does it. To be sure of the server, too: ssl with `ca`, the certificate that getTimeline has.
const sql = new pg.Client({ connectionString: `${connectionString}&uselibpqcompat=true` })
await sql.connect()
await sql.query('create table trees (id int primary key, species text)')
const before = await sql.query('select pg_current_wal_insert_lsn()::text as lsn')
await sql.query("insert into trees select i, 'oak' from generate_series(1, 100) i")

await client.switchFullPageWrites(name, 'off')
const { tookMs, sinceLsn } = await client.waitForFullPageWrites(name, {
  onStep: ({ phase }) => console.log(`full_page_writes: ${phase}`),
})
console.log(`switched off in ${tookMs} ms, since ${sinceLsn}`)

const place = await sql.query(`
  select pg_relation_filenode('trees') as relation, d.oid as database, pg_current_wal_flush_lsn()::text as lsn
  from pg_database d where datname = current_database()`)
const { relation, database, lsn } = place.rows[0]
const page = await client.getPage(
  name,
  { relation: Number(relation), database: Number(database), block: 0 },
  { lsn },
)
if (page === undefined) throw new Error('storage has no such block')
console.log(`block 0 of trees at ${lsn}: ${page.length} bytes, last changed before ${pageLsn(page)}`)

let bytes = 0
for await (const piece of client.tailWal(name, { fromLsn: before.rows[0].lsn, toLsn: lsn }))
  bytes += piece.bytes.length
console.log(`${bytes} bytes of WAL from ${before.rows[0].lsn} to ${lsn}`)

await sql.end()
client.close()
