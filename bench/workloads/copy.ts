/**
 * Bulk loading by COPY ... FROM STDIN in text format. Rows are written as bytes straight into the CopyData
 * message; the next chunk is made only after the socket took the one before, so memory stays at one chunk.
 */
import { once } from 'node:events'
import type pg from 'pg'
import type { Random } from './random.ts'

const CHUNK_BYTES = 131_072
/** More than the longest row of any table here. */
const ROW_BYTES_MAX = 2_048
const HEADER_BYTES = 5

const TAB = 0x09
const NEWLINE = 0x0a
const POOL_BYTES = 65_536
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'

/** Writes one field after another; each row ends with `end()`. */
export class RowWriter {
  buffer = Buffer.allocUnsafe(CHUNK_BYTES)
  at = HEADER_BYTES
  rowsCount = 0
  readonly #letters: Buffer

  /** `random` fills the pool that random strings are cut from: much faster than to draw each letter. */
  constructor(random: Random) {
    this.#letters = Buffer.allocUnsafe(POOL_BYTES)
    for (let i = 0; i < POOL_BYTES; i++)
      this.#letters[i] = ALPHABET.charCodeAt(random.between(0, ALPHABET.length - 1))
  }

  int(value: number): this {
    return this.text(String(value))
  }

  /** `value` hundredths, as a decimal. */
  hundredths(value: number): this {
    const absolute = Math.abs(value)
    const fraction = absolute % 100
    const sign = value < 0 ? '-' : ''
    return this.text(`${sign}${(absolute - fraction) / 100}.${fraction < 10 ? '0' : ''}${fraction}`)
  }

  /** ASCII without tab, newline and backslash. */
  text(value: string): this {
    let at = this.at
    for (let i = 0; i < value.length; i++) this.buffer[at++] = value.charCodeAt(i)
    this.buffer[at++] = TAB
    this.at = at
    return this
  }

  null(): this {
    return this.text('\\N')
  }

  /** A random alphanumeric string of `min` .. `max` characters, around `middle` if one is given. */
  random(random: Random, min: number, max: number, middle = ''): this {
    const length = random.between(min, max)
    const from = random.between(0, POOL_BYTES - length)
    const start = this.at
    this.at += this.#letters.copy(this.buffer, this.at, from, from + length)
    if (middle !== '') this.buffer.write(middle, start + random.between(0, length - middle.length), 'latin1')
    this.buffer[this.at++] = TAB
    return this
  }

  end(): void {
    this.buffer[this.at - 1] = NEWLINE
    this.rowsCount++
  }
}

/** A loader of one table: yields after each row that it wrote. */
export type RowSource = (rows: RowWriter) => Generator<void, void, void>

/** Runs a COPY statement with the rows of `source` and returns their number. */
export async function copyIn(
  client: pg.Client,
  sql: string,
  random: Random,
  source: RowSource,
): Promise<number> {
  const rows = new RowWriter(random)
  await new Promise<void>((resolve, reject) =>
    client.query(new CopyIn(sql, rows, source(rows), resolve, reject)),
  )
  return rows.rowsCount
}

class CopyIn implements pg.Submittable {
  readonly #sql: string
  readonly #rows: RowWriter
  readonly #source: Generator<void, void, void>
  readonly #resolve: () => void
  readonly #reject: (error: unknown) => void
  #isOver = false

  constructor(
    sql: string,
    rows: RowWriter,
    source: Generator<void, void, void>,
    resolve: () => void,
    reject: (error: unknown) => void,
  ) {
    this.#sql = sql
    this.#rows = rows
    this.#source = source
    this.#resolve = resolve
    this.#reject = reject
  }

  submit(connection: pg.Connection): void {
    connection.query(this.#sql)
  }

  handleCopyInResponse(connection: pg.Connection): void {
    this.#pump(connection.stream).catch((error: unknown) => {
      this.handleError(error)
      connection.stream.destroy()
    })
  }

  handleCommandComplete(): void {}

  handleReadyForQuery(): void {
    this.#isOver = true
    this.#resolve()
  }

  handleError(error: unknown): void {
    this.#isOver = true
    this.#reject(error)
  }

  async #pump(stream: pg.Connection['stream']): Promise<void> {
    let isLast = false
    while (!isLast && !this.#isOver && stream.writable) {
      isLast = this.#fill()
      const rows = this.#rows
      rows.buffer[0] = 0x64 // CopyData
      rows.buffer.writeInt32BE(rows.at - 1, 1)
      const isTaken = stream.write(rows.buffer.subarray(0, rows.at))
      rows.buffer = Buffer.allocUnsafe(CHUNK_BYTES)
      rows.at = HEADER_BYTES
      if (!isTaken && !isLast) await once(stream, 'drain')
      // Other connections load their tables at the same time.
      else await new Promise(setImmediate)
    }
    if (!this.#isOver && stream.writable) stream.write(Buffer.from([0x63, 0, 0, 0, 4])) // CopyDone
  }

  #fill(): boolean {
    while (this.#rows.at < CHUNK_BYTES - ROW_BYTES_MAX) if (this.#source.next().done === true) return true
    return false
  }
}
