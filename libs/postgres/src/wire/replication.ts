/**
 * The physical replication protocol, as a standby speaks it: commands, the WAL stream, base backups.
 *
 * Source: docs "Streaming Replication Protocol"; walsender.c, basebackup_copy.c (16, 17, 18 alike in what is used
 * here).
 */
import type { Duplex } from 'node:stream'
import { LSN_ZERO, lsn, parseLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  COMMAND_COMPLETE,
  COPY_BOTH_RESPONSE,
  COPY_DATA,
  COPY_DONE,
  COPY_OUT_RESPONSE,
  READY_FOR_QUERY,
  ROW_DESCRIPTION,
  DATA_ROW,
  RowReader,
  WireConnection,
} from './connection.ts'
import type { ConnectionOptions, Row } from './connection.ts'
import { TarReader } from './tar.ts'
import type { TarEvent } from './tar.ts'

/** Postgres's time counts from 2000. */
const POSTGRES_EPOCH_MS = 946_684_800_000

export type StreamMessage =
  | {
      readonly kind: 'wal'
      readonly startLsn: Lsn
      /** May be kept: it is never written to again. */
      readonly bytes: Buffer
      /** End of the server's WAL. */
      readonly serverEndLsn: Lsn
    }
  | { readonly kind: 'keepalive'; readonly serverEndLsn: Lsn; readonly replyRequested: boolean }

const lsnAt = (bytes: Buffer, at: number): Lsn =>
  lsn(bytes.readUInt32BE(at) * 0x1_0000_0000 + bytes.readUInt32BE(at + 4))

/** The WAL stream. Acknowledgements go out when `report` is called; keepalives are answered by themselves. */
export class ReplicationStream {
  readonly #connection: WireConnection
  readonly #wallMs: () => number
  #ackLsn: Lsn
  #isOver = false

  constructor(connection: WireConnection, startLsn: Lsn, wallMs: () => number) {
    this.#connection = connection
    this.#ackLsn = startLsn
    this.#wallMs = wallMs
  }

  /** Up to what `report` last said. */
  get acknowledgedLsn(): Lsn {
    return this.#ackLsn
  }

  /**
   * The next message, or undefined where the server ended the stream (it stops). Rejects `unavailable` when it broke.
   */
  async next(): Promise<StreamMessage | undefined> {
    if (this.#isOver) return undefined
    const { type, body } = await this.#connection.next()
    if (type === COPY_DONE) {
      // CopyDone of ours lets the server continue to the end of the command.
      this.#isOver = true
      this.#connection.send('c', new Uint8Array(0))
      return undefined
    }
    if (type === COMMAND_COMPLETE || type === READY_FOR_QUERY) {
      this.#isOver = true
      return undefined
    }
    if (type !== COPY_DATA) throw fail('unavailable', `Postgres sent message ${type} in the WAL stream`)
    // w: XLogData { start, end of WAL, time, bytes }; k: keepalive { end of WAL, time, reply requested }.
    if (body[0] === 0x77)
      return { kind: 'wal', startLsn: lsnAt(body, 1), serverEndLsn: lsnAt(body, 9), bytes: body.subarray(25) }
    if (body[0] !== 0x6b)
      throw fail('unavailable', `Postgres sent a stream message of the unknown kind ${body[0]}`)
    const replyRequested = body[17] === 1
    if (replyRequested) this.report(this.#ackLsn)
    return { kind: 'keepalive', serverEndLsn: lsnAt(body, 1), replyRequested }
  }

  /**
   * Standby status update: written, flushed and applied up to `ackLsn`. Never goes back. A reader that pauses `next`
   * for long must call it now and then with the same position: keepalives wait unread then, and without any word from
   * the standby Postgres ends the connection after wal_sender_timeout.
   */
  report(ackLsn: Lsn): void {
    if (this.#isOver) return
    if (ackLsn > this.#ackLsn) this.#ackLsn = ackLsn
    const update = Buffer.alloc(34)
    update[0] = 0x72 // r
    for (const at of [1, 9, 17]) update.writeBigUInt64BE(BigInt(this.#ackLsn), at)
    update.writeBigInt64BE(BigInt(Math.round((this.#wallMs() - POSTGRES_EPOCH_MS) * 1000)), 25)
    this.#connection.send('d', update)
  }
}

export type BackupEvent =
  /** Redo position of the backup's checkpoint. */
  | { readonly kind: 'start'; readonly startLsn: Lsn; readonly timelineId: number }
  /** A tablespace other than the default ones; its files come with paths below `pg_tblspc/<oid>/`. */
  | { readonly kind: 'tablespace'; readonly oid: number; readonly location: string }
  /** Paths are relative to the data directory. */
  | TarEvent
  /** The end: the files and the WAL from start to here are a whole cluster. */
  | { readonly kind: 'end'; readonly endLsn: Lsn; readonly timelineId: number }

export interface SystemIdentity {
  readonly systemId: bigint
  readonly timelineId: number
  /** Flushed so far. */
  readonly flushLsn: Lsn
}

export class ReplicationConnection {
  readonly #connection: WireConnection
  readonly #wallMs: () => number

  private constructor(connection: WireConnection, wallMs: () => number) {
    this.#connection = connection
    this.#wallMs = wallMs
  }

  /** Takes over a connected socket. `wallMs`: the time that status updates carry. */
  static async open(
    socket: Duplex,
    options: Omit<ConnectionOptions, 'replication'>,
    wallMs: () => number,
  ): Promise<ReplicationConnection> {
    return new ReplicationConnection(
      await WireConnection.open(socket, { ...options, replication: true }),
      wallMs,
    )
  }

  /** Such as `17.10`. */
  get serverVersion(): string {
    return this.#connection.parameters.get('server_version') ?? ''
  }

  query(sql: string): Promise<Row[]> {
    return this.#connection.query(sql)
  }

  async identifySystem(): Promise<SystemIdentity> {
    const row = only(await this.query('IDENTIFY_SYSTEM'), 'IDENTIFY_SYSTEM')
    return {
      systemId: BigInt(row['systemid'] ?? ''),
      timelineId: Number(row['timeline']),
      flushLsn: parseLsn(row['xlogpos'] ?? ''),
    }
  }

  async show(setting: string): Promise<string> {
    const row = only(await this.query(`SHOW ${identifier(setting)}`), 'SHOW')
    return Object.values(row)[0] ?? ''
  }

  /** Keeps WAL from the last checkpoint's redo position on. */
  async createPhysicalSlot(name: string): Promise<void> {
    await this.query(`CREATE_REPLICATION_SLOT ${identifier(name)} PHYSICAL (RESERVE_WAL)`)
  }

  /** Undefined when there is no such slot. */
  async readSlot(name: string): Promise<{ readonly restartLsn: Lsn } | undefined> {
    const row = only(await this.query(`READ_REPLICATION_SLOT ${identifier(name)}`), 'READ_REPLICATION_SLOT')
    if (row['slot_type'] === null) return undefined
    return { restartLsn: row['restart_lsn'] == null ? LSN_ZERO : parseLsn(row['restart_lsn']) }
  }

  async startReplication(options: {
    readonly slot?: string
    readonly startLsn: Lsn
    readonly timelineId: number
  }): Promise<ReplicationStream> {
    const { slot, startLsn, timelineId } = options
    const where = slot === undefined ? '' : `SLOT ${identifier(slot)} `
    const at = `${Math.floor(startLsn / 0x1_0000_0000).toString(16)}/${(startLsn % 0x1_0000_0000).toString(16)}`
    this.#connection.sendQuery(
      `START_REPLICATION ${where}PHYSICAL ${at.toUpperCase()} TIMELINE ${timelineId}`,
    )
    const { type } = await this.#connection.firstAnswer()
    if (type !== COPY_BOTH_RESPONSE)
      throw fail('unavailable', `Postgres did not begin to stream on timeline ${timelineId}`)
    return new ReplicationStream(this.#connection, startLsn, this.#wallMs)
  }

  /**
   * The whole cluster, without WAL and manifest; full-page images are forced while it runs. Where it fails or is left
   * before its end, the connection is of no more use: close it.
   */
  async *baseBackup(label: string): AsyncGenerator<BackupEvent, void, void> {
    const connection = this.#connection
    connection.sendQuery(
      `BASE_BACKUP (LABEL ${quoted(label)}, CHECKPOINT 'fast', WAL false, WAIT false, MANIFEST 'no', VERIFY_CHECKSUMS false)`,
    )
    const start = only(await this.#readResult(), 'BASE_BACKUP')
    yield { kind: 'start', startLsn: parseLsn(start['recptr'] ?? ''), timelineId: Number(start['tli']) }
    for (const row of await this.#readResult()) {
      if (row['spcoid'] === null) continue
      yield { kind: 'tablespace', oid: Number(row['spcoid']), location: row['spclocation'] ?? '' }
    }
    yield* this.#readArchives()
    const end = only(await this.#readResult(), 'BASE_BACKUP')
    while ((await connection.next()).type !== READY_FOR_QUERY);
    yield { kind: 'end', endLsn: parseLsn(end['recptr'] ?? ''), timelineId: Number(end['tli']) }
  }

  async *#readArchives(): AsyncGenerator<BackupEvent, void, void> {
    let archive = new TarReader()
    let below = ''
    for (;;) {
      const { type, body } = await this.#connection.next()
      if (type === COPY_OUT_RESPONSE) continue
      if (type === COPY_DONE) return archive.end()
      if (type !== COPY_DATA) throw fail('unavailable', `Postgres sent message ${type} in a base backup`)
      // n: next archive { name, tablespace location }; d: its bytes; p: progress.
      if (body[0] === 0x6e) {
        archive.end()
        archive = new TarReader()
        const oid = /^(\d+)\.tar$/.exec(body.toString('utf8', 1, body.indexOf(0, 1)))?.[1]
        below = oid === undefined ? '' : `pg_tblspc/${oid}/`
      } else if (body[0] === 0x64) {
        for (const event of archive.push(body.subarray(1))) {
          yield event.kind === 'data' || below === '' ? event : { ...event, path: below + event.path }
        }
      }
    }
  }

  /** One result with its CommandComplete, where several follow each other. */
  async #readResult(): Promise<Row[]> {
    let rows = new RowReader()
    for (;;) {
      const { type, body } = await this.#connection.next()
      if (type === ROW_DESCRIPTION) rows = new RowReader(body)
      else if (type === DATA_ROW) rows.add(body)
      else if (type === COMMAND_COMPLETE) return rows.rows
      else throw fail('unavailable', `Postgres sent message ${type} where rows were expected`)
    }
  }

  close(): void {
    this.#connection.close()
  }
  /** At once, without a good-bye. */
  destroy(): void {
    this.#connection.destroy()
  }
}

function only(rows: readonly Row[], command: string): Row {
  const row = rows[0]
  if (row === undefined) throw fail('unavailable', `Postgres answered ${command} with no row`)
  return row
}

const quoted = (text: string): string => `'${text.replaceAll("'", "''")}'`

function identifier(name: string): string {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(name)) throw fail('bad_argument', `"${name}" is not a plain name`)
  return name
}
