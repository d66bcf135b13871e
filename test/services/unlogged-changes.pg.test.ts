// Goal: pages that Postgres writes without a record do not count as differences, are counted with their reason, and are
// still compared: one changed byte of such a page, on either side, is found. Method: a real server that writes them,
// with storage that follows it; then single bytes are changed by hand.
import { open, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { join } from 'node:path'
import { parseRelationPath } from '@understory/postgres/cluster'
import { PAGE_SIZE, isReinitializedSpgistPage } from '@understory/postgres/page'
import { FORK_INIT, FORK_MAIN } from '@understory/postgres/wal'
import type { VerifyResult } from '@understory/rpc'
import { blockKey, shardOfKey } from '@understory/storage'
import type { Key } from '@understory/storage'
import { startPostgres } from '@understory/testcontainers'
import type { PostgresServer } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { stateOf } from '../../apps/pageserver/test/support.ts'
import { openTestStorage } from '../support/test-storage.ts'
import type { TestStorage } from '../support/test-storage.ts'
import { verifyTimeline } from '../../apps/compute-proxy/src/verify/verify.ts'

const SETTINGS = {
  autovacuum: false,
  wal_keep_size: '1GB',
  full_page_writes: false,
  checkpoint_timeout: '1h',
}
const BLOOM = 'init fork of a bloom index, which Postgres does not log'
const SPGIST = 'empty SP-GiST page that Postgres initialized without a record'
const workload = (name: string): Promise<string> =>
  readFile(fileURLToPath(new URL(`../../tools/verify-redo/workloads/${name}`, import.meta.url)), 'utf8')

async function runWorkload(server: PostgresServer, name: string): Promise<void> {
  const script = (await workload(name)).replaceAll(/^--.*$/gm, '')
  const client = await server.connect()
  // VACUUM must not run in a transaction of several statements.
  for (const statement of script.split(';\n')) await client.query(statement)
  await client.end()
}

async function verify(server: PostgresServer, storage: TestStorage): Promise<VerifyResult> {
  const { dataDirectory, major } = server
  await using _following = storage.follow()
  return await verifyTimeline({
    ...storage.source,
    dataDirectory,
    major,
    connect: (database) => server.connect(database),
    startedAtLsn: undefined,
  })
}

interface Place {
  readonly key: Key
  /** Of the file, within the data directory, and where the page begins in it. */
  readonly path: string
  readonly offset: number
}

async function placeOf(
  server: PostgresServer,
  relation: string,
  fork: number,
  block: number,
): Promise<Place> {
  const client = await server.connect()
  const { rows } = await client.query<{ path: string }>('select pg_relation_filepath($1) as path', [relation])
  await client.end()
  const path = rows[0]!.path
  const { spcOid, dbOid, relNumber } = parseRelationPath(path, server.major)!
  const key = blockKey(spcOid, dbOid, relNumber, fork, block)
  return { key, path: fork === FORK_INIT ? `${path}_init` : path, offset: block * PAGE_SIZE }
}

async function readPage(server: PostgresServer, { path, offset }: Place): Promise<Buffer> {
  const file = await readFile(join(server.dataDirectory, path))
  return file.subarray(offset, offset + PAGE_SIZE)
}

/** The result of verify while one byte of the primary's page is another. */
async function withByteChanged(
  server: PostgresServer,
  storage: TestStorage,
  place: Place,
  byte: number,
): Promise<readonly string[]> {
  const page = await readPage(server, place)
  const write = async (value: number): Promise<void> => {
    await using file = await open(join(server.dataDirectory, place.path), 'r+')
    await file.write(Uint8Array.of(value), 0, 1, place.offset + byte)
  }
  await write(page[byte]! ^ 0x10)
  try {
    return (await verify(server, storage)).differences
  } finally {
    await write(page[byte]!)
  }
}

/** Puts `change` of storage's own page, or of zeros, into storage as its newest version. */
async function changeInStorage(
  storage: TestStorage,
  { key }: Place,
  change: (page: Uint8Array) => void,
): Promise<void> {
  const shard = storage.shards.find(({ owner }) => shardOfKey(owner.shard, key) === owner.shard.number)!
  const home = storage.shards.find(({ reader }) => reader.isHomeOf(key.rel))!
  const at = await storage.feed()
  const bytes = new Uint8Array(PAGE_SIZE)
  await expect
    .poll(() => Math.min(shard.ingestedLsn, home.ingestedLsn), { timeout: 30_000 })
    .toBeGreaterThanOrEqual(at)
  await shard.reader.readPage(key, at, { bytes, view: new DataView(bytes.buffer) })
  change(bytes)
  stateOf(shard).putBytes(key, at, bytes)
  const size = stateOf(home).sizeOf(key.spcOid, key.dbOid, key.rel, key.fork) ?? 0
  if (size <= key.block) stateOf(home).putSize(key.spcOid, key.dbOid, key.rel, key.fork, key.block + 1, at)
}

test.each([16, 17, 18] as const)(
  'pages that PostgreSQL %i does not log are distinguished from damage',
  { timeout: 240_000 },
  async (major) => {
    await using server = await startPostgres({
      major,
      settings: SETTINGS,
      started: false,
      dataChecksums: false,
    })
    await using storage = await openTestStorage(server)
    await server.start()
    await runWorkload(server, 'generic.sql')
    const reused = await makeReusedPlace(server)
    const clean = await verify(server, storage)
    expect(clean.differences).toEqual([])
    expect(clean.excludedBy[BLOOM]).toBe(2n)
    expect(clean.excludedBy[SPGIST]).toBeGreaterThanOrEqual(1n)

    const init = await placeOf(server, 'w_generic.u_j', FORK_INIT, 0)
    // The bits of the second column, in the middle of the options.
    expect(await withByteChanged(server, storage, init, 44)).toEqual([
      expect.stringMatching(
        /w_generic\.u_j .* init fork block 0: the primary has a page of 0\/0, storage has none$/,
      ),
    ])
    for (const byte of [40, 8190])
      expect(await withByteChanged(server, storage, reused, byte)).toEqual([
        expect.stringMatching(/w_spgist_reuse\.s_b .* block \d+: pd_lsn is 0\/0 on the primary and 0\//),
      ])

    // nPlaceholder of a page that should be empty; then a page where none was logged.
    await changeInStorage(storage, reused, (page) => void (page[8188]! ^= 0x10))
    await changeInStorage(storage, init, (page) => void (page[100]! ^= 0x10))
    expect((await verify(server, storage)).differences.toSorted()).toEqual([
      expect.stringMatching(/w_generic\.u_j .* init fork block 0: /),
      expect.stringMatching(/w_spgist_reuse\.s_b .* block \d+: pd_lsn is 0\/0 on the primary and 0\//),
    ])
    expect(storage.errors).toEqual([])
  },
)

const ATTEMPTS_COUNT_MAX = 30

/**
 * A page of the index that Postgres initialized without a record. An insert below equal nodes takes one of them by
 * chance (Postgres 17, access/spgist/spgdoinsert.c, spgdoinsert), so not every run of the workload makes one.
 */
async function makeReusedPlace(server: PostgresServer): Promise<Place> {
  for (let attempt = 0; attempt < ATTEMPTS_COUNT_MAX; attempt++) {
    const client = await server.connect()
    await client.query('drop schema if exists w_spgist_reuse cascade')
    await runWorkload(server, 'spgist-reuse.sql')
    await client.query('checkpoint')
    await client.end()
    const place = await reusedPlace(server)
    if (place !== undefined) return place
  }
  throw new Error(`no page was initialized without a record in ${ATTEMPTS_COUNT_MAX} runs of the workload`)
}

async function reusedPlace(server: PostgresServer): Promise<Place | undefined> {
  for (let block = 0; ; block++) {
    const place = await placeOf(server, 'w_spgist_reuse.s_b', FORK_MAIN, block)
    const page = await readPage(server, place)
    if (page.length === 0) return undefined
    if (isReinitializedSpgistPage(page, page)) return place
  }
}
