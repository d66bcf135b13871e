/**
 * Makes indexes of unlogged tables fit for use after a rebuild. An unlogged relation is made empty from its init fork,
 * and storage has of that what Postgres logged. An index on bloom logs nothing (contrib/bloom blinsert.c blbuildempty,
 * 16 to 18): without its first page it can be neither read nor written, and so the table takes no row, which after a
 * crash of stock Postgres it would. REINDEX makes the page again; that costs little, because the table is empty.
 */
import { describeError, fail } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import type { RelFile } from '@understory/postgres/wal'
import type pg from 'pg'
import { withoutValues } from './postgres-log.ts'
import { withSql } from './sql.ts'
import type { SqlTarget } from './sql.ts'

/** A prepared transaction may hold a lock for ever. */
const LOCK_TIMEOUT_MS = 1_000
const STATEMENT_TIMEOUT_MS = 5_000
/** Clients wait for this: what is not rebuilt by then is left as it is. */
const TOTAL_MS_MAX = 30_000

/** The session calls nothing that a user may have put in the place of what Postgres has. */
const SESSION = `
  set search_path = pg_catalog;
  set lock_timeout = ${LOCK_TIMEOUT_MS};
  set statement_timeout = ${STATEMENT_TIMEOUT_MS}`

/**
 * By file number alone: an unlogged index with the same number in another tablespace is rebuilt too, and is as empty.
 */
const INDEXES = `
  select c.oid::text as oid, format('%I.%I', n.nspname, c.relname) as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
   where c.relkind = 'i' and c.relpersistence = 'u' and c.relfilenode = any($1::oid[])
   order by c.oid`

interface Database {
  readonly oid: string
  readonly name: string
}

export class UnloggedIndexes {
  readonly #target: SqlTarget
  readonly #clock: Clock
  readonly #log: Log

  constructor(target: SqlTarget, clock: Clock, log: Log) {
    this.#target = target
    this.#clock = clock
    this.#log = log
  }

  /**
   * Rebuilds the unlogged indexes among these relations, whose init forks are empty, as those of unlogged tables always
   * are. What cannot be rebuilt is logged by its oid and left as it is: nothing is thrown, and clients are let in.
   */
  async rebuild(emptyInitForks: readonly Readonly<RelFile>[]): Promise<void> {
    if (emptyInitForks.length === 0) return
    const untilMs = this.#clock.nowMs() + TOTAL_MS_MAX
    const filesByDatabase = Map.groupBy(emptyInitForks, ({ dbOid }) => String(dbOid))
    try {
      for (const database of await this.#databases([...filesByDatabase.keys()])) {
        const files = filesByDatabase.get(database.oid) ?? []
        await this.#rebuildIn(database, files, untilMs).catch((error: unknown) => {
          this.#warn(error, { database: database.oid })
        })
      }
    } catch (error) {
      this.#warn(error)
    }
  }

  #databases(oids: readonly string[]): Promise<Database[]> {
    return withSql(this.#target, async (client) => {
      await client.query(SESSION)
      const { rows } = await client.query<Database>(
        'select oid::text, datname as name from pg_database where datallowconn and oid = any($1::oid[])',
        [oids],
      )
      return rows
    })
  }

  #rebuildIn(
    { oid: database, name }: Database,
    files: readonly Readonly<RelFile>[],
    untilMs: number,
  ): Promise<void> {
    const rebuildWith = async (client: pg.Client): Promise<void> => {
      await client.query(SESSION)
      const numbers = files.map(({ relNumber }) => relNumber)
      const { rows } = await client.query<{ oid: string; name: string }>(INDEXES, [numbers])
      let count = 0
      for (const { oid: index, name: indexName } of rows) {
        if (this.#clock.nowMs() >= untilMs)
          throw fail('timeout', `rebuilding unlogged indexes took ${TOTAL_MS_MAX / 1_000} s`)
        try {
          await client.query(`reindex index ${indexName}`)
          count++
        } catch (error) {
          this.#warn(error, { database, index })
        }
      }
      if (count > 0) this.#log.info('unlogged_indexes_rebuilt', { database, count })
    }
    return withSql(this.#target, rebuildWith, { database: name })
  }

  #warn(error: unknown, where: { database?: string; index?: string } = {}): void {
    this.#log.warn('unlogged_index_not_rebuilt', { ...where, problem: describeError(withoutValues(error)) })
  }
}
