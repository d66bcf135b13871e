/**
 * Makes the golden WAL of this folder: page images as Postgres compresses them, which the binaries of npm cannot do for
 * lz4 and zstd. It wants a Postgres built from source (./configure --with-lz4 --with-zstd), once for each version:
 *
 *   node libs/postgres/test/golden/capture.ts PREFIX-OF-THE-INSTALLATION …
 *
 * Each page of a table is changed by one record after a checkpoint, so that what the clean stop leaves on disk is that
 * record's image and its LSN. Of each method there is `images-MAJOR-METHOD.wal.gz`, WAL from a page
 * boundary to the change's end, and `images-MAJOR-METHOD.pages.gz`, the table's file; `golden.json` says where they
 * belong.
 */
import { readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { advance, bytesBetween, formatLsn, offsetInSegment, parseLsn, segmentOf } from '@understory/base'
import {
  freePort,
  runCommand,
  startProcess,
  temporaryDirectory,
  unprivilegedUser,
} from '@understory/testcontainers'
import pg from 'pg'
import { WAL_SEGMENT_BYTES, XLOG_BLCKSZ } from '../../src/wal/constants.ts'
import { walFileName } from '../../src/wal/pages.ts'

/** One golden file pair. */
interface Golden {
  readonly major: number
  readonly version: string
  readonly method: string
  /** Where the file begins. */
  readonly startLsn: string
  /** From here on are the records of the change. */
  readonly changeLsn: string
  readonly relation: { readonly spcOid: number; readonly dbOid: number; readonly relNumber: number }
  readonly blocks: number
}

const FOLDER = import.meta.dirname
const METHODS = ['off', 'pglz', 'lz4', 'zstd']

/** Half-empty pages, whose images have a hole, and pages filled to the last byte: two tuples of 4,080 bytes. */
const TABLE = [
  `create table golden (id int, v text) with (autovacuum_enabled = off)`,
  `alter table golden alter v set storage plain`,
  `insert into golden select g, repeat(md5(g::text) || 'the same words ', 30) from generate_series(1, 12) g`,
  `insert into golden select g, rpad(repeat(md5(g::text), 3) || repeat('abc', g), 4048, md5('x' || g)) from generate_series(13, 20) g`,
  // Read once, so that no hint bit is set later.
  `select count(*) from golden`,
]
const CHANGE = `delete from golden where ctid in (select min(ctid) from golden group by (ctid::text::point)[0])`

async function captureMethod(
  prefix: string,
  major: number,
  version: string,
  method: string,
): Promise<Golden> {
  const user = unprivilegedUser()
  await using home = await temporaryDirectory({ prefix: 'golden', owner: user })
  const data = join(home.path, 'data')
  const name = `PostgreSQL ${version}`
  const checksums = major >= 18 ? ['--no-data-checksums'] : []
  const initdb = ['-U', 'postgres', '-A', 'trust', '--no-sync', '--locale=C', '-D', data, ...checksums]
  await runCommand({ name, command: join(prefix, 'bin', 'initdb'), args: initdb, user, cwd: '/' })
  const port = await freePort()
  const settings = { wal_compression: method, port, unix_socket_directories: home.path, fsync: 'off' }
  const flags = Object.entries(settings).flatMap(([key, value]) => ['-c', `${key}=${value}`])
  const server = await startProcess({
    name,
    command: join(prefix, 'bin', 'postgres'),
    args: ['-D', data, ...flags],
    user,
    cwd: '/',
    ready: /ready to accept connections/,
  })
  try {
    const client = new pg.Client({ host: '127.0.0.1', port, user: 'postgres', database: 'postgres' })
    await client.connect()
    const one = async (sql: string): Promise<string> =>
      String(Object.values((await client.query<Record<string, unknown>>(sql)).rows[0] ?? {})[0])
    for (const sql of TABLE) await client.query(sql)
    await client.query('checkpoint')
    const before = parseLsn(await one('select pg_current_wal_insert_lsn()'))
    await client.query(CHANGE)
    const after = parseLsn(await one('select pg_current_wal_insert_lsn()'))
    const path = await one(`select pg_relation_filepath('golden')`)
    const dbOid = Number(path.split('/')[1])
    const relNumber = Number(path.split('/')[2])
    await client.end()
    await server.stop('SIGINT')

    const startLsn = advance(before, -(before % XLOG_BLCKSZ))
    const segment = segmentOf(startLsn, WAL_SEGMENT_BYTES)
    const from = offsetInSegment(startLsn, WAL_SEGMENT_BYTES)
    const wal = await readFile(join(data, 'pg_wal', walFileName(1, segment, WAL_SEGMENT_BYTES)))
    const bytes = bytesBetween(startLsn, after)
    const pages = await readFile(join(data, path))
    const base = join(FOLDER, `images-${major}-${method}`)
    await writeFile(`${base}.wal.gz`, gzipSync(wal.subarray(from, from + bytes), { level: 9 }))
    await writeFile(`${base}.pages.gz`, gzipSync(pages, { level: 9 }))
    const relation = { spcOid: 1663, dbOid, relNumber }
    return {
      major,
      version,
      method,
      startLsn: formatLsn(startLsn),
      changeLsn: formatLsn(before),
      relation,
      blocks: pages.length / 8192,
    }
  } finally {
    await server.stop('SIGQUIT')
  }
}

const captured: Golden[] = []
for (const prefix of process.argv.slice(2)) {
  const versionText = await runCommand({
    name: 'postgres',
    command: join(prefix, 'bin', 'postgres'),
    args: ['--version'],
  })
  const version = /\d+\.\d+/.exec(versionText)?.[0] ?? ''
  for (const method of METHODS)
    captured.push(await captureMethod(prefix, parseInt(version, 10), version, method))
}
await writeFile(join(FOLDER, 'golden.json'), `${JSON.stringify(captured, undefined, 2)}\n`)
process.stdout.write(`${(await readdir(FOLDER)).join('\n')}\n`)
