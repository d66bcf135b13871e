/**
 * One connection to a Postgres server, frontend/backend protocol 3.0, over a stream that is handed in. Messages are
 * read only when a caller waits for one, so that a slow reader slows the server down. Trust and clear-text passwords:
 * compute-proxy and importers reach their server over a private socket.
 *
 * Source: docs "Message Formats"; libpq/protocol.h (16, 17, 18).
 */
import type { Duplex } from 'node:stream'
import { fail } from '@understory/base'

export interface ConnectionOptions {
  readonly user: string
  /** Not used by a physical replication connection. */
  readonly database?: string
  readonly password?: string
  /** `true` for physical replication. */
  readonly replication?: boolean
  readonly applicationName?: string
  /** Settings of the session, as a server's command line has them: `-c name=value …`. */
  readonly options?: string
}

export interface BackendMessage {
  /** ASCII code of its type. */
  readonly type: number
  /** Borrows from what the socket delivered, which is never written to again: it may be kept. */
  readonly body: Buffer
}

export type Row = Readonly<Record<string, string | null>>

const PROTOCOL_VERSION = 3 << 16
const AUTH_OK = 0
const AUTH_CLEARTEXT_PASSWORD = 3
/** No message of a server is larger; a stream that says so is not Postgres's. */
const MESSAGE_BYTES_MAX = 0x4000_0000

/** Codes of backend messages. */
export const AUTHENTICATION = 0x52 // R
export const BACKEND_KEY_DATA = 0x4b // K
export const COMMAND_COMPLETE = 0x43 // C
export const COPY_BOTH_RESPONSE = 0x57 // W
export const COPY_DATA = 0x64 // d
export const COPY_DONE = 0x63 // c
export const COPY_OUT_RESPONSE = 0x48 // H
export const DATA_ROW = 0x44 // D
export const ERROR_RESPONSE = 0x45 // E
export const NOTICE_RESPONSE = 0x4e // N
export const PARAMETER_STATUS = 0x53 // S
export const READY_FOR_QUERY = 0x5a // Z
export const ROW_DESCRIPTION = 0x54 // T

export class WireConnection {
  readonly #socket: Duplex
  readonly #chunks: AsyncIterator<Buffer>
  #buffer: Buffer = Buffer.alloc(0)
  #at = 0
  /** The parameters that the server reported, such as `server_version`. */
  readonly parameters = new Map<string, string>()

  private constructor(socket: Duplex) {
    this.#socket = socket
    this.#chunks = (socket as AsyncIterable<Buffer>)[Symbol.asyncIterator]()
    // Failures are met by the reader; without a listener one between two reads would end the process.
    socket.on('error', () => undefined)
  }

  /** Takes over a connected socket. Errors: `unavailable`, `denied`, `unsupported`. */
  static async open(socket: Duplex, options: ConnectionOptions): Promise<WireConnection> {
    const connection = new WireConnection(socket)
    try {
      await connection.#start(options)
      return connection
    } catch (error) {
      connection.destroy()
      throw error
    }
  }

  async #start(wanted: ConnectionOptions): Promise<void> {
    const { user, database, password, replication, applicationName, options } = wanted
    const settings: [string, string][] = [['user', user]]
    if (database !== undefined) settings.push(['database', database])
    if (replication === true) settings.push(['replication', 'true'])
    if (applicationName !== undefined) settings.push(['application_name', applicationName])
    if (options !== undefined) settings.push(['options', options])
    const text = Buffer.from(`${settings.map(([name, value]) => `${name}\0${value}\0`).join('')}\0`)
    const startup = Buffer.alloc(8 + text.length)
    startup.writeInt32BE(startup.length, 0)
    startup.writeInt32BE(PROTOCOL_VERSION, 4)
    text.copy(startup, 8)
    this.#socket.write(startup)
    for (;;) {
      const { type, body } = await this.next()
      if (type === READY_FOR_QUERY) return
      if (type === AUTHENTICATION) this.#authenticate(body.readInt32BE(0), password)
    }
  }

  #authenticate(method: number, password: string | undefined): void {
    if (method === AUTH_OK) return
    if (method !== AUTH_CLEARTEXT_PASSWORD) {
      throw fail('unsupported', `Postgres asks for authentication method ${method}`, {
        hint: 'Let the replication role in with "trust" or "password" in pg_hba.conf.',
      })
    }
    if (password === undefined) throw fail('denied', 'Postgres asks for a password, and none is known')
    this.send('p', Buffer.from(`${password}\0`))
  }

  /**
   * The next message; notices and parameter reports are taken in on the way. Errors: what an ErrorResponse says, as
   * refused `unavailable`; `unavailable` when the connection ends.
   */
  async next(): Promise<BackendMessage> {
    for (;;) {
      const message = await this.#read()
      if (message.type === ERROR_RESPONSE) throw serverError(message.body)
      if (message.type === PARAMETER_STATUS) {
        const [name, value] = message.body.toString('utf8').split('\0')
        this.parameters.set(name as string, value as string)
      } else if (message.type !== NOTICE_RESPONSE && message.type !== BACKEND_KEY_DATA) {
        return message
      }
    }
  }

  async #read(): Promise<BackendMessage> {
    await this.#fill(5)
    const length = this.#buffer.readInt32BE(this.#at + 1)
    if (length < 4 || length > MESSAGE_BYTES_MAX) {
      throw fail('unavailable', `message of ${length} bytes: the other side is not a Postgres server`)
    }
    await this.#fill(1 + length)
    const type = this.#buffer[this.#at] as number
    const body = this.#buffer.subarray(this.#at + 5, this.#at + 1 + length)
    this.#at += 1 + length
    return { type, body }
  }

  /** Until `size` bytes are there. */
  async #fill(size: number): Promise<void> {
    let have = this.#buffer.length - this.#at
    if (have >= size) return
    const parts = have === 0 ? [] : [this.#buffer.subarray(this.#at)]
    while (have < size) {
      const chunk = await this.#chunks.next().catch((cause: unknown) => {
        throw fail('unavailable', 'the connection to Postgres failed', { cause })
      })
      if (chunk.done === true) throw fail('unavailable', 'Postgres closed the connection')
      parts.push(chunk.value)
      have += chunk.value.length
    }
    this.#buffer = parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts, have)
    this.#at = 0
  }

  /** True as long as the socket takes more at once. */
  send(type: string, body: Uint8Array): boolean {
    const message = Buffer.allocUnsafe(5 + body.length)
    message.write(type, 0, 'latin1')
    message.writeInt32BE(4 + body.length, 1)
    message.set(body, 5)
    return this.#socket.write(message)
  }

  sendQuery(sql: string): void {
    this.send('Q', Buffer.from(`${sql}\0`))
  }

  /** Runs one command; returns the rows of its first result. After an error the connection stays usable. */
  async query(sql: string): Promise<Row[]> {
    this.sendQuery(sql)
    const results = await this.readResults()
    return results[0] ?? []
  }

  /** The results of a simple query up to ReadyForQuery. */
  async readResults(): Promise<Row[][]> {
    const results: Row[][] = []
    let failure: Error | undefined
    let rows = new RowReader()
    for (;;) {
      try {
        const { type, body } = await this.next()
        if (type === READY_FOR_QUERY) {
          if (failure === undefined) return results
          throw failure
        }
        if (type === ROW_DESCRIPTION) results.push((rows = new RowReader(body)).rows)
        else if (type === DATA_ROW) rows.add(body)
        else if (type === COPY_BOTH_RESPONSE || type === COPY_OUT_RESPONSE) {
          throw fail('unavailable', 'Postgres began to copy where rows were expected')
        }
      } catch (error) {
        if (failure !== undefined || !isServerError(error)) throw error
        failure = error
      }
    }
  }

  /** The first message of an answer. A command that was refused leaves the connection ready for the next. */
  async firstAnswer(): Promise<BackendMessage> {
    try {
      return await this.next()
    } catch (error) {
      if (isServerError(error)) while ((await this.next()).type !== READY_FOR_QUERY);
      throw error
    }
  }

  /** Says good-bye; the server ends the session. */
  close(): void {
    if (this.#socket.writable) {
      this.send('X', new Uint8Array(0))
      this.#socket.end()
    }
    this.destroy()
  }

  destroy(): void {
    this.#socket.destroy()
  }
}

/** Collects the rows of one result as text by column name. */
export class RowReader {
  readonly rows: Row[] = []
  readonly #names: string[] = []

  constructor(description?: Buffer) {
    if (description === undefined) return
    let at = 2
    for (let left = description.readInt16BE(0); left > 0; left--) {
      const end = description.indexOf(0, at)
      this.#names.push(description.toString('utf8', at, end))
      // Table oid 4, column 2, type oid 4, type length 2, modifier 4, format 2.
      at = end + 1 + 18
    }
  }

  add(row: Buffer): void {
    const values: Record<string, string | null> = {}
    let at = 2
    for (const name of this.#names) {
      const length = row.readInt32BE(at)
      at += 4
      values[name] = length < 0 ? null : row.toString('utf8', at, at + length)
      if (length > 0) at += length
    }
    this.rows.push(values)
  }
}

const serverErrors = new WeakSet<object>()
/** Whether it came as an ErrorResponse: the session continues with ReadyForQuery, unless the server ended it. */
const isServerError = (error: unknown): error is Error => error instanceof Error && serverErrors.has(error)

function serverError(body: Buffer): Error {
  const fields = new Map<string, string>()
  for (const field of body.toString('utf8').split('\0'))
    if (field !== '') fields.set(field[0] as string, field.slice(1))
  const detail = [`SQLSTATE ${fields.get('C')}`, fields.get('D')]
    .filter((text) => text !== undefined)
    .join(': ')
  const hint = fields.get('H')
  const error = fail('unavailable', `Postgres says: ${fields.get('M') ?? 'an error'}`, {
    detail,
    ...(hint === undefined ? {} : { hint }),
  })
  serverErrors.add(error)
  return error
}
