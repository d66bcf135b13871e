/**
 * Goal: safekeepers keep little WAL for themselves, and readers of older WAL get it all the same. Method: a real
 * cluster with a pageserver that is away while far more is written than safekeepers keep, and safekeepers that are
 * killed at it.
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { ClusterNode } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { startRoad, until } from './cluster-support.ts'

const KEPT_MIB = 32
const SEGMENT_MIB = 16

async function segmentsOf({ dataDirectory }: ClusterNode): Promise<string[]> {
  const names = await readdir(dataDirectory, { recursive: true })
  return names.filter((name) => /\/[0-9A-F]{24}$/.test(name)).toSorted()
}

test(
  'a pageserver that was away longer than WAL is kept reads it from the store',
  { timeout: 300_000 },
  async () => {
    await using road = await startRoad({
      flags: { safekeeper: ['--keep-wal-mib', String(KEPT_MIB), '--offload-take-over-s', '1'] },
    })
    const { safekeepers, pageservers } = road.cluster
    const [away] = pageservers as [ClusterNode]
    await away.kill()
    await road.query('create table filler (batch int, v text)')
    for (const [batch, safekeeper] of [...safekeepers, ...safekeepers].entries()) {
      await road.query(
        `insert into filler select ${batch}, repeat(md5(i::text), 32) from generate_series(1, 25000) i`,
      )
      // Wherever its offload is.
      await safekeeper.kill()
      await safekeeper.start()
    }
    for (const safekeeper of safekeepers) {
      await until(`${safekeeper.nodeId} to release old WAL`, async () => {
        const segments = await segmentsOf(safekeeper)
        return segments.length <= KEPT_MIB / SEGMENT_MIB + 2 ? true : undefined
      })
    }
    const stored = await readdir(join(road.cluster.objectStore, 'wal'), { recursive: true })
    expect(stored.filter((name) => /\/[0-9A-F]{24}$/.test(name)).length).toBeGreaterThan(8)

    await away.start()
    await road.ingested()
    expect((await road.expectVerified()).pagesIndependent).toBeGreaterThan(15_000n)
  },
)
