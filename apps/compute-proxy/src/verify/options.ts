/** The options of a verification, shared by its parts. */
import type { Lsn } from '@understory/base'
import type { PgdataSource } from '@understory/pgdata'
import type { PgMajor } from '@understory/postgres/wal'
import type { Traces } from '@understory/telemetry'
import type pg from 'pg'

export interface VerifyOptions extends PgdataSource {
  readonly dataDirectory: string
  readonly major: PgMajor
  /** A superuser's connection, to any database where none is named; the verification ends it. */
  readonly connect: (database: string | undefined) => Promise<pg.Client>
  /** Where this Postgres began to write; undefined if it has run since initdb, so that every page is its own. */
  readonly startedAtLsn: Lsn | undefined
  /** How long a moment without writers is waited for; 45,000 by default. */
  readonly quietPatienceMs?: number
  /** Undefined where reads are not traced. */
  readonly traces?: Traces | undefined
  readonly onProgress?: (pagesDone: number, pagesTotal: number) => void
}
