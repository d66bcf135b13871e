/**
 * What the client knows about its transaction commits, kept by itself, to be compared with what the database
 * has.
 *
 * Each writing transaction inserts (client_id, sequence) into `understory_ledger`; the sequence of a client
 * counts its attempts from 1. The file gets one line per attempt once its outcome is known:
 *
 *     a CLIENT SEQUENCE   acknowledged: COMMIT returned
 *     u CLIENT SEQUENCE   unknown: the connection was lost while COMMIT was on its way
 *     f CLIENT SEQUENCE   failed: rolled back, or COMMIT never sent
 *     c CLIENT 0          a client begins
 *
 * A line is one write(2), so a client that is killed keeps every line. The attempt that it had on its way
 * then has none; it is the one after the client's last line, and counts as unknown.
 *
 * The first line says which client ids are this file's. They are drawn at random, so that several files can
 * be kept of one database, and a file that is opened again continues with new ids.
 */
import { closeSync, existsSync, openSync, readFileSync, writeSync } from 'node:fs'
import { randomInt } from 'node:crypto'
import { assert, fail } from '@understory/base'
import type pg from 'pg'
import type { Statement } from './session.ts'

const CLIENTS_MAX = 65_536
const HEADER = /^understory-ledger 1 clients from (\d+)$/

export const LEDGER_INSERT: Statement = {
  name: 'ledger',
  text: 'insert into understory_ledger (client_id, sequence) values ($1::int8, $2::int8)',
}

export async function createLedgerTable(client: pg.Client): Promise<void> {
  await client.query(
    'create table if not exists understory_ledger (client_id int8 not null, sequence int8 not null)',
  )
}

export class Ledger {
  readonly path: string
  readonly #file: number
  #nextClientId: number

  /** Opens the file for more, or makes it. */
  constructor(path: string) {
    this.path = path
    const isNew = !existsSync(path)
    const known = isNew ? undefined : readLedger(path)
    const base = known?.clientsFrom ?? randomInt(1, 2 ** 31) * CLIENTS_MAX
    this.#nextClientId = base + (known?.clients.size ?? 0)
    this.#file = openSync(path, 'a')
    if (isNew) writeSync(this.#file, `understory-ledger 1 clients from ${base}\n`)
  }

  addClient(): LedgerClient {
    assert(this.#nextClientId % CLIENTS_MAX < CLIENTS_MAX - 1, () => `"${this.path}" has no client ids left`)
    const client = new LedgerClient(this.#file, this.#nextClientId++)
    writeSync(this.#file, `c ${client.clientId} 0\n`)
    return client
  }

  close(): void {
    closeSync(this.#file)
  }
}

export class LedgerClient {
  readonly clientId: number
  readonly #file: number
  #sequence = 0

  constructor(file: number, clientId: number) {
    this.#file = file
    this.clientId = clientId
  }

  /** The sequence of a new attempt, which must end with one of the three calls below. */
  begin(): number {
    return ++this.#sequence
  }

  acknowledged(sequence: number): void {
    writeSync(this.#file, `a ${this.clientId} ${sequence}\n`)
  }

  unknown(sequence: number): void {
    writeSync(this.#file, `u ${this.clientId} ${sequence}\n`)
  }

  failed(sequence: number): void {
    writeSync(this.#file, `f ${this.clientId} ${sequence}\n`)
  }
}

export interface LedgerCheck {
  readonly acknowledged: number
  /** Acknowledged, but not in the database: the worst that can happen. */
  readonly lostCommits: number
  /**
   * In the database, but never committed as far as the client knows; rows that are there twice count here
   * too.
   */
  readonly ghostCommits: number
  readonly unknownPresent: number
  readonly unknownAbsent: number
  /** The first few of the lost and of the ghosts, `client/sequence`. */
  readonly examples: { readonly lost: readonly string[]; readonly ghosts: readonly string[] }
}

const EXAMPLES_MAX = 5

/** Compares a ledger's file with the table of the database that `client` is connected to. */
export async function checkLedger(client: pg.Client, path: string): Promise<LedgerCheck> {
  const { clientsFrom, clients } = readLedger(path)
  const check = { acknowledged: 0, lostCommits: 0, ghostCommits: 0, unknownPresent: 0, unknownAbsent: 0 }
  const lost: string[] = []
  const ghosts: string[] = []
  const seen = new Map<number, Uint8Array>()
  for (const [clientId, outcomes] of clients) seen.set(clientId, new Uint8Array(outcomes.length))
  for (const { clientId, first, last, copies } of await readRuns(
    client,
    clientsFrom,
    clientsFrom + CLIENTS_MAX,
  )) {
    const outcomes = clients.get(clientId)
    for (let sequence = first; sequence <= last; sequence++) {
      const outcome = outcomes === undefined ? 'failed' : outcomeOf(outcomes, sequence)
      if (outcome === 'unknown') check.unknownPresent++
      const ghostsCount = outcome === 'failed' ? copies : copies - 1
      check.ghostCommits += ghostsCount
      if (ghostsCount > 0 && ghosts.length < EXAMPLES_MAX) ghosts.push(`${clientId}/${sequence}`)
      const marks = seen.get(clientId)
      if (marks !== undefined && sequence > 0 && sequence < marks.length) marks[sequence] = 1
    }
  }
  for (const [clientId, outcomes] of clients) {
    const marks = seen.get(clientId) as Uint8Array
    for (let sequence = 1; sequence < outcomes.length; sequence++) {
      if (outcomes[sequence] === 'acknowledged') check.acknowledged++
      if (marks[sequence] === 1 || outcomes[sequence] === 'failed') continue
      if (outcomes[sequence] === 'unknown') check.unknownAbsent++
      if (outcomes[sequence] !== 'acknowledged') continue
      check.lostCommits++
      if (lost.length < EXAMPLES_MAX) lost.push(`${clientId}/${sequence}`)
    }
  }
  return { ...check, examples: { lost, ghosts } }
}

/** The attempt after the last line may have been on its way when the client was killed. */
function outcomeOf(outcomes: readonly (Outcome | undefined)[], sequence: number): Outcome {
  if (sequence === Math.max(outcomes.length, 1)) return 'unknown'
  return outcomes[sequence] ?? 'failed'
}

type Outcome = 'acknowledged' | 'unknown' | 'failed'

interface LedgerFile {
  readonly clientsFrom: number
  /** By client, the outcomes by sequence. */
  readonly clients: ReadonlyMap<number, readonly (Outcome | undefined)[]>
}

function readLedger(path: string): LedgerFile {
  const lines = readFileSync(path, 'latin1').split('\n')
  const clientsFrom = Number(HEADER.exec(lines[0] ?? '')?.[1] ?? refuseFile(path, 1))
  const clients = new Map<number, (Outcome | undefined)[]>()
  // The last line ends the file and is empty.
  for (let i = 1; i < lines.length - 1; i++) {
    const fields = LINE.exec(lines[i] as string) ?? refuseFile(path, i + 1)
    const clientId = Number(fields[2])
    let outcomes = clients.get(clientId)
    if (outcomes === undefined) clients.set(clientId, (outcomes = []))
    if (fields[1] !== 'c') outcomes[Number(fields[3])] = OUTCOMES[fields[1] as keyof typeof OUTCOMES]
  }
  return { clientsFrom, clients }
}

const LINE = /^([acuf]) (\d+) (\d+)$/
const OUTCOMES = { a: 'acknowledged', u: 'unknown', f: 'failed' } as const satisfies Record<string, Outcome>

function refuseFile(path: string, line: number): never {
  throw fail('bad_file', `line ${line} of "${path}" is not one of a ledger`, {
    hint: 'Name a file that --ledger made.',
  })
}

interface Run {
  readonly clientId: number
  readonly first: number
  readonly last: number
  readonly copies: number
}

/** The rows of the table, as runs of consecutive sequences: a million rows come back as a few thousand. */
async function readRuns(client: pg.Client, from: number, to: number): Promise<Run[]> {
  const { rows } = await client.query<[string, string, string, string]>({
    text: `select client_id, min(sequence), max(sequence), copies
           from (select client_id, sequence, count(*) as copies,
                        sequence - row_number() over (partition by client_id, count(*) order by sequence) as run
                 from understory_ledger where client_id >= $1::int8 and client_id < $2::int8
                 group by client_id, sequence) as counted
           group by client_id, copies, run`,
    values: [from, to],
    rowMode: 'array',
  })
  return rows.map(([clientId, first, last, copies]) => ({
    clientId: Number(clientId),
    first: Number(first),
    last: Number(last),
    copies: Number(copies),
  }))
}
