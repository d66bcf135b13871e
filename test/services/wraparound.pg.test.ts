// Goal: storage goes over the ends of transaction ids, multixact ids and members with its primary: verify finds no
// difference, and a compute built from storage answers the same, with more than 2^31 members live and after a
// truncation over the ends.
// Method: a real server brought right before the ends, its WAL through a real safekeeper and shards.
import { join } from 'node:path'
import { unprivilegedUser } from '@understory/env'
import { assemblePgdata, prepareCheckpoint, writeStandaloneConfiguration } from '@understory/pgdata'
import { startPostgres, temporaryDirectory } from '@understory/testcontainers'
import type { PostgresMajor, PostgresServer } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { openTestStorage } from '../support/test-storage.ts'
import type { TestStorage } from '../support/test-storage.ts'
import {
  FEW_MEMBERS,
  NEARLY_ALL_MEMBERS,
  NEAR_WRAPAROUND_SETTINGS,
  answersAfterWraparound,
  bringNearWraparound,
  crossWraparound,
  truncateFirst,
  truncateRest,
} from '../../libs/postgres/test/near-wraparound.ts'
import { verifyTimeline } from '../../apps/compute-proxy/src/verify/verify.ts'

const SETTINGS = {
  ...NEAR_WRAPAROUND_SETTINGS,
  wal_keep_size: '1GB',
  full_page_writes: false,
  checkpoint_timeout: '1h',
}

async function verify(server: PostgresServer, storage: TestStorage): Promise<void> {
  const { dataDirectory, major } = server
  await using _following = storage.follow()
  const result = await verifyTimeline({
    ...storage.source,
    dataDirectory,
    major,
    connect: (database) => server.connect(database),
    startedAtLsn: undefined,
  })
  expect(result.differences).toEqual([])
  expect(result.slruPages).toBeGreaterThanOrEqual(4n)
}

/** Builds a compute from storage and compares what both answer. */
async function rebuild(server: PostgresServer, storage: TestStorage): Promise<void> {
  const { major } = server
  const client = await server.connect()
  const expected = await answersAfterWraparound(client)
  const lsn = await storage.feed()
  const owner = unprivilegedUser()
  await using folder = await temporaryDirectory({ prefix: 'pgd', owner })
  const directory = join(folder.path, 'made')
  await assemblePgdata({ ...storage.source, directory, lsn, checkpoint: { kind: 'forge' }, owner })
  const { state } = await prepareCheckpoint({ ...storage.source, lsn })
  await writeStandaloneConfiguration(directory, { state, owner })
  await using copy = await startPostgres({
    major,
    dataDirectory: directory,
    settings: NEAR_WRAPAROUND_SETTINGS,
  })
  expect(copy.log()).not.toMatch(/redo|recovery|not properly|FATAL/)
  const reader = await copy.connect()
  expect(await answersAfterWraparound(reader)).toEqual(expected)
  // It continues where the other stood.
  await reader.query('insert into many values (0, md5(0::text))')
  expect(storage.errors).toEqual([])
}

type Comparison = (server: PostgresServer, storage: TestStorage) => Promise<void>

/** `compareFirst` with the ends within what is live, `compareLast` once everything before them is truncated. */
async function goOver(
  major: PostgresMajor,
  oldestMember: number,
  compareFirst: Comparison,
  compareLast: Comparison,
): Promise<void> {
  await using server = await startPostgres({ major, settings: SETTINGS, started: false })
  await bringNearWraparound(server, oldestMember)
  await using storage = await openTestStorage(server)
  await server.start()
  const connect = (database?: string) => server.connect(database)
  await crossWraparound({ client: await connect(), connect, connectionString: server.connectionString })
  await truncateFirst(connect)
  await compareFirst(server, storage)
  await truncateRest(connect)
  await compareLast(server, storage)
}

test.each([16, 17, 18] as const)(
  'storage of PostgreSQL %i goes over the ends of ids and members',
  { timeout: 240_000 },
  async (major) => {
    const both: Comparison = async (server, storage) => {
      await verify(server, storage)
      await rebuild(server, storage)
    }
    await goOver(major, FEW_MEMBERS, both, verify)
  },
)

test('a compute is rebuilt with nearly all member numbers live', { timeout: 240_000 }, async () => {
  await goOver(18, NEARLY_ALL_MEMBERS, rebuild, rebuild)
})
