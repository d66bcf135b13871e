/**
 * Goal: where the object store takes no WAL and a majority of the safekeepers gets to its quota, commits wait, all
 * clients get the reason, and all continues by itself once the store is back; nothing is lost, and no connection
 * either. Method: a cluster of real processes; a file stands where the store wants a folder.
 */
import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { runCli, startRoad, until } from './cluster-support.ts'

test('commits wait while safekeepers are at their quota, and continue by themselves', async () => {
  const quota = ['--timeline-quota-mib', '64', '--keep-wal-mib', '1000', '--offload-take-over-s', '1']
  await using road = await startRoad({ flags: { safekeeper: quota } })
  await road.loadTpcb()
  const wal = join(road.cluster.objectStore, 'wal')
  await until('the first segment in the store', async () => {
    await road.query('create table if not exists filler (t text)')
    await road.query('insert into filler select repeat(md5(g::text), 30) from generate_series(1, 10000) g')
    return rename(wal, `${wal}.aside`).then(
      () => true as const,
      () => undefined,
    )
  })
  await writeFile(wal, '')

  let rows = 0
  let isStopped = false
  const writing = road.withClient(async (client) => {
    await client.query('create table numbers (n int)')
    while (!isStopped) {
      await client.query(
        'with _ as (insert into filler select repeat(md5(g::text), 30) from generate_series(1, 2000) g) insert into numbers values ($1)',
        [rows],
      )
      rows++
    }
  })
  writing.catch(() => undefined)
  const safekeepers = async () => (await road.client.getSafekeepers(road.tenant)).safekeepers
  // The third may have released a segment more: then it has room for all that there is.
  await until('a majority to be at their quota', async () => {
    const full = (await safekeepers()).filter(({ failure }) => failure.includes('at its quota of 64 MiB'))
    return full.length >= 2 || undefined
  })
  const before = rows
  const { stdout } = await runCli(road.cluster, 'safekeeper', 'list', '--tenant', road.tenant)
  expect(stdout).toContain('the timeline is at its quota of 64 MiB')
  await until('the compute to say why', () => {
    const log = road.cluster.computeHost.log()
    return (log.includes('"event":"safekeeper_lost"') && log.includes('at its quota of 64 MiB')) || undefined
  })
  expect(rows - before).toBeLessThanOrEqual(1)

  await rm(wal)
  await rename(`${wal}.aside`, wal)
  await until('commits to continue', () => rows > before + 20 || undefined)
  isStopped = true
  await writing
  expect(await road.query('select count(*)::int as n, max(n) as last from numbers')).toEqual([
    { n: rows, last: rows - 1 },
  ])
  await until(
    'all of them to have room',
    async () => (await safekeepers()).every(({ failure }) => failure === '') || undefined,
  )
  await road.ingested()
  await road.expectVerified()
})
