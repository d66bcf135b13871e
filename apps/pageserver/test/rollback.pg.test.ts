/**
 * Goal: a shard whose newest WAL is discarded soon after its import takes in the WAL of the base backup again, and has
 * then what a shard has whose WAL was kept. Method: the files of a stopped server are imported as a backup that ends
 * where a later run of it ends: their pages are right only with the WAL of that run.
 */
import { cp, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Lsn } from '@understory/base'
import { parseControlFile } from '@understory/postgres/cluster'
import { startPostgres, temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { streamFiles } from '../src/serve/file-stream.ts'
import type { Shard } from '../src/shard/shard.ts'
import { attach, feedWal, importCluster, openBench } from './support.ts'

const LAYOUT = { count: 1, stripeBlocks: 4 }
const IMAGES = { enabled: false, thresholdRecords: 1000 }

async function contentOf(shard: Shard, at: Lsn): Promise<Map<string, string>> {
  const content = new Map<string, string>()
  for await (const { piece } of streamFiles(shard.reader, at)) {
    if (piece?.$case !== 'file') continue
    const { path, offset, data } = piece.value
    content.set(`${path} ${offset}`, Buffer.from(data).toString('base64'))
  }
  return content
}

test('a shard that is rolled back to the end of its base backup has all of the WAL since its start', async () => {
  const settings = { autovacuum: false, checkpoint_timeout: '1h', wal_keep_size: '1GB' }
  await using server = await startPostgres({ major: 17, started: false, settings })
  await using directory = await temporaryDirectory({ prefix: 'rb' })
  const root = server.dataDirectory
  const backup = join(directory.path, 'backup')
  await cp(root, backup, { recursive: true })
  const run = async (...statements: readonly string[]): Promise<Lsn> => {
    await server.start()
    const client = await server.connect()
    for (const statement of statements) await client.query(statement)
    await server.stop()
    return parseControlFile(await readFile(join(root, 'global/pg_control'))).checkpoint.redoLsn
  }
  const backupEndLsn = await run('create table t as select i, 0 as n from generate_series(1, 20000) i')
  await run('update t set n = n + 1 where i % 10 = 0', 'create table after (a int)')

  const start = async (name: string): Promise<readonly [Awaited<ReturnType<typeof openBench>>, Shard]> => {
    const bench = await openBench(join(directory.path, name))
    const [shard] = await attach(bench, LAYOUT, 1, true, IMAGES)
    await importCluster([shard!], backup, 17, backupEndLsn)
    return [bench, shard!]
  }
  const [oracleBench, oracle] = await start('oracle')
  await using _oracle = oracleBench
  const endLsn = await feedWal([oracle], root)

  const [bench, shard] = await start('rolled-back')
  await using _bench = bench
  await feedWal([shard], root)
  await shard.flush()
  const { startLsn } = shard.index
  expect(startLsn).toBeLessThan(backupEndLsn)
  await bench.registry.attach({
    owner: shard.owner,
    generation: 2,
    create: false,
    safekeepers: [],
    postgres: shard.index.postgres,
    imageGeneration: IMAGES,
    rollback: { lsn: backupEndLsn, beforeGeneration: 2 },
  })
  const again = bench.registry.all[0] as Shard
  // Nothing of that WAL is in a layer that stayed, and nothing can be read before it is there.
  expect(again.ingestedLsn).toBe(startLsn)
  await expect(again.waitFor(startLsn, 5)).rejects.toMatchObject({ code: 'out_of_range' })
  await expect(again.waitFor(backupEndLsn, 5)).rejects.toMatchObject({ code: 'timeout' })
  expect(await feedWal([again], root)).toBe(endLsn)
  for (const at of [backupEndLsn, endLsn]) {
    const [found, wanted] = [await contentOf(again, at), await contentOf(oracle, at)]
    expect(wanted.size).toBeGreaterThan(500)
    expect([...wanted.keys()].filter((key) => found.get(key) !== wanted.get(key))).toEqual([])
    expect(found.size).toBe(wanted.size)
  }
  expect([...bench.errors, ...oracleBench.errors]).toEqual([])
})
