/**
 * Runs scripts on a server to their end: a statement that fails is counted and passed over, one that hangs is
 * cancelled, a session that is lost is opened again. Only a server that does not come back ends it.
 */
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { SqlScript } from './sql-script.ts'
import type { ScriptStep } from './sql-script.ts'

const STATEMENT_MS_MAX = 60_000
const CANCEL_MS_MAX = 10_000
const RECONNECT_MS_MAX = 120_000
const UNANSWERED_MS_MAX = 5_000

/** Postgres crashed, and its own recovery does not get it back. */
export class ServerGoneError extends Error {}

export interface ScriptCounts {
  files: number
  statements: number
  errors: number
  /** Backslash commands that were not followed, by name. */
  readonly skipped: Record<string, number>
  cancelled: number
  sessionsLost: number
}

export const newCounts = (): ScriptCounts => ({
  files: 0,
  statements: 0,
  errors: 0,
  skipped: {},
  cancelled: 0,
  sessionsLost: 0,
})

/** One simple query whose rows are not wanted, with the data of a COPY. */
class ScriptQuery implements pg.Submittable {
  readonly done: Promise<void>
  readonly #sql: string
  readonly #copyData: string
  readonly #settle: PromiseWithResolvers<void>

  constructor(sql: string, copyData: string) {
    this.#sql = sql
    this.#copyData = copyData
    this.#settle = Promise.withResolvers<void>()
    this.done = this.#settle.promise
    this.done.catch(() => undefined)
  }

  submit(connection: pg.Connection): void {
    connection.query(this.#sql)
  }
  handleCopyInResponse(connection: pg.Connection): void {
    const data = Buffer.from(this.#copyData)
    const header = Buffer.alloc(5, 'd')
    header.writeInt32BE(4 + data.length, 1)
    if (data.length > 0) connection.stream.write(Buffer.concat([header, data]))
    connection.stream.write(Buffer.from([0x63, 0, 0, 0, 4])) // CopyDone
  }
  handleRowDescription(): void {}
  handleDataRow(): void {}
  handleCopyData(): void {}
  handleEmptyQuery(): void {}
  handleCommandComplete(): void {}
  handlePortalSuspended(): void {}
  handleReadyForQuery(): void {
    this.#settle.resolve()
  }
  handleError(error: unknown): void {
    this.#settle.reject(error)
  }
}

export class ScriptSession {
  readonly #connectionString: string
  readonly #counts: ScriptCounts
  #database: string
  #client: pg.Client | undefined

  constructor(connectionString: string, counts: ScriptCounts) {
    this.#connectionString = connectionString
    this.#counts = counts
    this.#database = new URL(connectionString).pathname.slice(1)
  }

  /** Runs one script in a session of its own. */
  async run(text: string, environment: Readonly<Record<string, string | undefined>>): Promise<void> {
    this.#counts.files++
    for (const step of new SqlScript(text, environment).steps()) await this.#step(step)
    await this.close()
    this.#database = new URL(this.#connectionString).pathname.slice(1)
  }

  async #step(step: ScriptStep): Promise<void> {
    const counts = this.#counts
    if (step.kind === 'skipped') {
      counts.skipped[step.command] = (counts.skipped[step.command] ?? 0) + 1
    } else if (step.kind === 'connect') {
      await this.close()
      const before = this.#database
      this.#database = step.database ?? before
      await this.#open().catch(() => {
        counts.errors++
        this.#database = before
      })
    } else {
      counts.statements++
      await this.#query(step.sql, step.copyData ?? '').catch((error: unknown) => {
        if (error instanceof ServerGoneError) throw error
        counts.errors++
      })
    }
  }

  async #query(sql: string, copyData: string): Promise<void> {
    const client = this.#client ?? (await this.#reopen())
    const query = new ScriptQuery(sql, copyData)
    const pid = (client as unknown as { readonly processID: number }).processID
    const watch = new AbortController()
    const watching = this.#cancelAfter(pid, watch.signal)
    try {
      client.query(query)
      await query.done
    } finally {
      watch.abort()
      await watching
    }
  }

  async #cancelAfter(pid: number, signal: AbortSignal): Promise<void> {
    for (const [waitMs, how] of [
      [STATEMENT_MS_MAX, 'pg_cancel_backend'],
      [CANCEL_MS_MAX, 'pg_terminate_backend'],
    ] as const) {
      const isOver = await delay(waitMs, false, { signal }).catch(() => true)
      if (isOver) return
      this.#counts.cancelled++
      const other = new pg.Client({ connectionString: this.#connectionString })
      other.on('error', () => undefined)
      await other
        .connect()
        .then(() => other.query(`select ${how}($1)`, [pid]))
        .catch(() => undefined)
      await other.end().catch(() => undefined)
    }
  }

  async #open(): Promise<pg.Client> {
    const url = new URL(this.#connectionString)
    url.pathname = encodeURIComponent(this.#database)
    const client = new pg.Client({ connectionString: url.href })
    const isLost = (): void => {
      if (this.#client !== client) return
      this.#client = undefined
      this.#counts.sessionsLost++
    }
    client.on('error', isLost)
    client.on('end', isLost)
    await client.connect()
    this.#client = client
    return client
  }

  /** A server that recovers from a crash takes connections again after a while. */
  async #reopen(): Promise<pg.Client> {
    const endMs = performance.now() + RECONNECT_MS_MAX
    let answeredMs = performance.now()
    for (;;) {
      try {
        return await this.#open()
      } catch (cause) {
        const nowMs = performance.now()
        // A recovering server answers that it recovers; without a server there is no answer.
        const isAnswered = !(cause instanceof Error && 'code' in cause && cause.code === 'ECONNREFUSED')
        if (isAnswered) answeredMs = nowMs
        if (nowMs > endMs || nowMs > answeredMs + UNANSWERED_MS_MAX) {
          throw new ServerGoneError('it takes no connections any more', { cause })
        }
        // A database that a script dropped, or that lets no client in.
        this.#database = new URL(this.#connectionString).pathname.slice(1)
        await delay(200)
      }
    }
  }

  async close(): Promise<void> {
    const client = this.#client
    this.#client = undefined
    await client?.end().catch(() => undefined)
  }
}
