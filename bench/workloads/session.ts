/**
 * One connection that sends several prepared statements in one round trip.
 *
 * `pg` sends one statement at a time and describes every one of them again; that is four times the messages
 * and most of a client's CPU, on a machine where client and server share two cores. So a trip is written here
 * as what the protocol allows: Bind and Execute for each statement, and one Sync. `pg` still makes the
 * connection, speaks the start-up and authentication, and decodes what comes back; a trip is one of its
 * submittable queries.
 *
 * Statements are parsed once, when the session starts. Parameters travel as text and must be ASCII. When a
 * statement fails, the server skips the rest of the trip, so a COMMIT at its end is then never executed.
 */
import { assert } from '@understory/base'
import pg from 'pg'
import { isConnectionLoss } from './connection-loss.ts'

export interface Statement {
  /** Unique within a workload; ASCII. */
  readonly name: string
  readonly text: string
}

export type Value = string | number | null
/** The fields of one row, as the server's text. */
export type Row = readonly (string | null)[]

export const BEGIN: Statement = { name: 'begin', text: 'begin' }
export const COMMIT: Statement = { name: 'commit', text: 'commit' }
export const ROLLBACK: Statement = { name: 'rollback', text: 'rollback' }

/** The outcome of the transaction that a trip was to commit. */
export type CommitOutcome = 'none' | 'inFlight' | 'committed'

const TRIP_BYTES_MIN = 16_384
const CONNECT_TIMEOUT_MS = 10_000

export class Session {
  readonly #client: pg.Client
  readonly #trip = new Trip()
  /** Becomes true for good when the connection is gone. */
  lost = false

  private constructor(client: pg.Client) {
    this.#client = client
    client.on('error', () => {
      this.lost = true
    })
    client.on('end', () => {
      this.lost = true
    })
    // "canceling the wait for synchronous replication": committed here, but perhaps nowhere else.
    client.on('notice', () => {
      this.#trip.doubtful = true
    })
  }

  static async open(connectionString: string, statements: readonly Statement[]): Promise<Session> {
    const client = new pg.Client({
      connectionString,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      keepAlive: true,
      fallback_application_name: 'understory-bench',
    })
    const session = new Session(client)
    try {
      await client.connect()
      for (const statement of [BEGIN, COMMIT, ROLLBACK, ...statements]) session.#trip.parse(statement)
      await session.send()
      return session
    } catch (error) {
      session.destroy()
      throw error
    }
  }

  /** Adds a statement to the next trip and returns its place in `rows`. */
  add(statement: Statement, ...values: readonly Value[]): number {
    return this.#trip.add(statement, values)
  }

  /**
   * Sends what was added. Rejects with the first error, after which the transaction is over or must be rolled
   * back.
   */
  async send(): Promise<void> {
    assert(!this.#trip.isRunning, () => 'a trip was sent while another is on its way')
    try {
      await this.#trip.run(this.#client)
    } catch (error) {
      if (isConnectionLoss(error)) this.lost = true
      throw error
    }
  }

  /**
   * Rows of the statement at `place` of the last trip. They stay as they are; the next trip makes new ones.
   */
  rows(place: number): readonly Row[] {
    return this.#trip.rows[place] ?? NO_ROWS
  }

  /** Whether the last trip was to commit, and whether the server said that it did. */
  get commitOutcome(): CommitOutcome {
    return this.#trip.commitOutcome
  }

  /** Ends the transaction that an error or the workload left open. */
  async rollback(): Promise<void> {
    this.#trip.add(ROLLBACK, [])
    await this.send()
  }

  async close(): Promise<void> {
    this.#client.on('error', () => undefined)
    if (this.lost) return this.destroy()
    await this.#client.end().catch(() => undefined)
  }

  /** Drops the connection at once; trips on their way are rejected. */
  destroy(): void {
    this.lost = true
    this.#client.end().catch(() => undefined)
    ;(this.#client as unknown as { connection: pg.Connection }).connection.stream.destroy()
  }
}

const NO_ROWS: readonly Row[] = []

/** The one trip of a session, used again and again: its buffer is free once the server's answer has come. */
class Trip implements pg.Submittable {
  #buffer = Buffer.allocUnsafe(TRIP_BYTES_MIN)
  #at = 0
  #statementsCount = 0
  #statementsDone = 0
  #commitAt = -1
  #settle: { resolve: () => void; reject: (error: unknown) => void } | undefined
  rows: (Row[] | undefined)[] = []
  commitOutcome: CommitOutcome = 'none'
  doubtful = false

  get isRunning(): boolean {
    return this.#settle !== undefined
  }

  run(client: pg.Client): Promise<void> {
    this.rows = []
    this.#statementsDone = 0
    this.doubtful = false
    this.commitOutcome = 'none'
    const promise = new Promise<void>((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    client.query(this)
    return promise
  }

  parse({ name, text }: Statement): void {
    const start = this.#message(0x50, name.length + text.length + 16) // Parse
    this.#cstring(name)
    this.#cstring(text)
    this.#int16(0)
    this.#finish(start)
  }

  add(statement: Statement, values: readonly Value[]): number {
    const { name } = statement
    const start = this.#message(0x42, name.length + 16) // Bind
    this.#cstring('')
    this.#cstring(name)
    this.#int16(0)
    this.#int16(values.length)
    for (let i = 0; i < values.length; i++) this.#value(values[i] as Value)
    this.#room(16)
    this.#int16(0)
    this.#finish(start)
    const execute = this.#message(0x45, 8) // Execute, without a limit of rows
    this.#cstring('')
    this.#int32(0)
    this.#finish(execute)
    if (statement === COMMIT) this.#commitAt = this.#statementsCount
    return this.#statementsCount++
  }

  // What `pg` calls.

  submit(connection: pg.Connection): void {
    this.#finish(this.#message(0x53, 0)) // Sync
    if (this.#commitAt >= 0) this.commitOutcome = 'inFlight'
    connection.stream.write(this.#buffer.subarray(0, this.#at))
    this.#at = 0
    this.#statementsCount = 0
  }

  handleDataRow(message: { fields: Row }): void {
    const rows = this.rows[this.#statementsDone]
    if (rows === undefined) this.rows[this.#statementsDone] = [message.fields]
    else rows.push(message.fields)
  }

  handleCommandComplete(message: { text: string }): void {
    // COMMIT of a failed transaction answers ROLLBACK.
    if (this.#statementsDone === this.#commitAt && message.text === 'COMMIT' && !this.doubtful) {
      this.commitOutcome = 'committed'
    }
    this.#statementsDone++
  }

  handleReadyForQuery(): void {
    const settle = this.#over()
    settle?.resolve()
  }

  handleError(error: unknown): void {
    // An ordinary error aborts the transaction before its COMMIT; only a lost connection leaves the question
    // open.
    if (!isConnectionLoss(error)) this.commitOutcome = 'none'
    const settle = this.#over()
    settle?.reject(error)
  }

  #over(): { resolve: () => void; reject: (error: unknown) => void } | undefined {
    const settle = this.#settle
    this.#settle = undefined
    this.#commitAt = -1
    this.#at = 0
    this.#statementsCount = 0
    return settle
  }

  // The encoding. `message` makes room for the fixed part; values make their own.

  #message(type: number, bytes: number): number {
    this.#room(bytes + 5)
    this.#buffer[this.#at] = type
    const start = this.#at + 1
    this.#at += 5
    return start
  }

  #finish(start: number): void {
    this.#buffer.writeInt32BE(this.#at - start, start)
  }

  #value(value: Value): void {
    if (value === null) {
      this.#room(4)
      this.#int32(-1)
      return
    }
    const text = typeof value === 'string' ? value : String(value)
    this.#room(text.length + 4)
    this.#int32(text.length)
    this.#ascii(text)
  }

  #cstring(text: string): void {
    this.#ascii(text)
    this.#buffer[this.#at++] = 0
  }

  // For texts of a few characters a loop is several times faster than a call into the engine.
  #ascii(text: string): void {
    let at = this.#at
    if (text.length <= 32) for (let i = 0; i < text.length; i++) this.#buffer[at++] = text.charCodeAt(i)
    else at += this.#buffer.write(text, at, 'latin1')
    this.#at = at
  }

  #int16(value: number): void {
    this.#at = this.#buffer.writeInt16BE(value, this.#at)
  }

  #int32(value: number): void {
    this.#at = this.#buffer.writeInt32BE(value, this.#at)
  }

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#buffer.length) return
    const larger = Buffer.allocUnsafe((this.#at + bytes) * 2)
    this.#buffer.copy(larger, 0, 0, this.#at)
    this.#buffer = larger
  }
}
