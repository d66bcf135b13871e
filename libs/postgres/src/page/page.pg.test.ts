// Goal: checksums and visibility-map bits are Postgres's own, and masks accept what a real server wrote.
// Method: a stopped cluster with data checksums; every page of every relation file is checked, then masked.
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { startPostgres } from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import {
  PAGE_SIZE,
  isPageNew,
  isPageChecksumRight,
  isPageHeaderSane,
  maskRelationPage,
  pageOf,
  setPageLsn,
  stampPageChecksum,
  vmBits,
  vmBlockOf,
} from './index.ts'
import type { PageKind } from './index.ts'
import { lsn } from '@understory/base'

const indexes: readonly PageKind[] = ['btree', 'hash', 'gin', 'gist', 'spgist', 'brin']

describe.each([16, 17, 18] as const)('pages of PostgreSQL %i', (major) => {
  test(
    'have the checksums and map bits that we compute, and can be masked',
    { timeout: 60_000 },
    async () => {
      await using server = await startPostgres({ major, dataChecksums: true })
      const client = await server.connect()
      for (const sql of [
        'create extension pg_visibility',
        `create table t as select g as id, point(g, g) as p, array[g, g % 7] as a from generate_series(1, 20000) g`,
        ...['btree (id)', 'hash (id)', 'gin (a)', 'gist (p)', 'spgist (p)', 'brin (id)'].map(
          (how, i) => `create index i_${indexes[i]} on t using ${how}`,
        ),
        'create sequence s',
        `select nextval('s')`,
        'vacuum t',
        'delete from t where id between 5000 and 6000',
        'update t set p = p where id > 19000',
      ])
        await client.query(sql)
      const { rows: map } = await client.query(
        `select blkno::int, all_visible, all_frozen from pg_visibility_map('t')`,
      )
      const { rows: relations } =
        await client.query(`select relname, pg_relation_filepath(oid) as path from pg_class
      where relname in ('t', 's') or relname like 'i\\_%'`)
      await client.end()
      await server.stop()

      let count = 0
      for (const directory of [
        'global',
        ...readdirSync(join(server.dataDirectory, 'base')).map((name) => join('base', name)),
      ]) {
        for (const name of readdirSync(join(server.dataDirectory, directory)).filter((file) =>
          /^\d+(_(fsm|vm|init))?(\.\d+)?$/.test(file),
        )) {
          const file = readFileSync(join(server.dataDirectory, directory, name))
          for (let block = 0; block < file.length / PAGE_SIZE; block++) {
            const page = pageOf(file.subarray(block * PAGE_SIZE, (block + 1) * PAGE_SIZE))
            if (!isPageHeaderSane(page)) throw new Error(`header of ${directory}/${name} block ${block}`)
            if (!isPageChecksumRight(page, block))
              throw new Error(`checksum of ${directory}/${name} block ${block}`)
            if (!isPageNew(page)) {
              if (isPageChecksumRight(page, block ^ 1))
                throw new Error('the checksum does not depend on the block number')
              count++
            }
          }
        }
      }
      expect(count).toBeGreaterThan(1000)

      const pathOf = (name: string): string =>
        join(server.dataDirectory, relations.find((row) => row.relname === name)?.path as string)
      const visibility = readFileSync(`${pathOf('t')}_vm`)
      for (const { blkno, all_visible, all_frozen } of map) {
        const bits = vmBits(
          visibility.subarray(vmBlockOf(blkno) * PAGE_SIZE, (vmBlockOf(blkno) + 1) * PAGE_SIZE),
          blkno,
        )
        expect(bits).toBe((all_visible ? 1 : 0) | (all_frozen ? 2 : 0))
      }
      expect(map.some((row) => row.all_visible) && map.some((row) => !row.all_visible)).toBe(true)

      const kinds = [
        ...indexes.map((kind) => [kind, `i_${kind}`] as const),
        ['heap', 't'] as const,
        ['sequence', 's'] as const,
      ]
      for (const [kind, name] of kinds) {
        const file = readFileSync(pathOf(name))
        for (let block = 0; block < file.length / PAGE_SIZE; block++) {
          const bytes = file.subarray(block * PAGE_SIZE, (block + 1) * PAGE_SIZE)
          const page = pageOf(bytes)
          if (isPageNew(page)) continue
          const other = pageOf(Buffer.from(bytes))
          setPageLsn(other, lsn(1))
          stampPageChecksum(other, block)
          maskRelationPage(kind, page, block)
          maskRelationPage(kind, other, block)
          if (!bytes.equals(other.bytes)) throw new Error(`${kind} block ${block} differs after masking`)
        }
      }
    },
  )
})
