/**
 * The clients. Every writing transaction inserts its number into a ledger, appends it to a list and reads that list
 * back; some are rolled back on purpose, some only read. Each client keeps a journal of what was acknowledged, synced
 * before the next transaction begins: the check in the end goes by these files.
 */
import { closeSync, fdatasyncSync, openSync, readFileSync, readdirSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { describeError, fail } from '@understory/base'
import { seededRng } from '@understory/env'
import type { Rng } from '@understory/env'
import pg from 'pg'
import type { Append, Outcome, Read } from './history.ts'

const LISTS_AT_ONCE = 4
/** Then another list is begun: long ones would cost more to write than what they test is worth. */
const APPENDS_A_LIST = 50
const CLIENTS_MAX = 200
const ROLLED_BACK_PERCENT = 8
const READING_PERCENT = 20
const CONNECT_TIMEOUT_MS = 3_000
const RECONNECT_MS = 50
const THINK_MS_MAX = 12

export interface WorkloadOptions {
  readonly connectionString: string
  readonly folder: string
  readonly clients: number
  readonly seed: number
}

export async function prepareDatabase(connectionString: string): Promise<void> {
  const client = new pg.Client({ connectionString })
  await client.connect()
  try {
    await client.query('create table chaos_ledger (client int not null, sequence int not null)')
    await client.query('create table chaos_lists (key int primary key, items int[] not null)')
  } finally {
    await client.end()
  }
}

export class Workload {
  readonly appends: Append[] = []
  readonly reads: Read[] = []
  /** When each acknowledgement came, in order. */
  readonly commitsMs: number[] = []
  /** Errors that no lost connection explains. */
  readonly surprises: string[] = []
  connectionsLost = 0
  readonly #options: WorkloadOptions
  readonly #stop = new AbortController()
  readonly #clients: Promise<void>[]
  #appendsBegun = 0

  constructor(options: WorkloadOptions) {
    this.#options = options
    this.#clients = Array.from({ length: options.clients }, (_, i) => this.#runClient(i + 1))
  }

  /** Lets every client end the transaction it is in. */
  async end(): Promise<void> {
    this.#stop.abort()
    await Promise.all(this.#clients)
  }

  /** A list to append to. */
  #drawKey(rng: Rng): number {
    const generation = Math.floor(this.#appendsBegun / (LISTS_AT_ONCE * APPENDS_A_LIST))
    return generation * LISTS_AT_ONCE + rng.below(LISTS_AT_ONCE)
  }

  async #runClient(number: number): Promise<void> {
    const rng = seededRng(this.#options.seed * CLIENTS_MAX + number)
    const journal = new Journal(this.#options.folder, number)
    const { signal } = this.#stop
    try {
      while (!signal.aborted) {
        const client = await this.#connect()
        if (client === undefined) continue
        try {
          while (!signal.aborted) {
            await this.#transact(client, number, journal, rng)
            await delay(rng.below(THINK_MS_MAX))
          }
        } catch (error) {
          this.connectionsLost++
          if (!isExpected(error)) this.surprises.push(describeError(error))
        } finally {
          await Promise.race([client.end().catch(() => undefined), delay(1_000)])
        }
      }
    } finally {
      journal.close()
    }
  }

  async #connect(): Promise<pg.Client | undefined> {
    const client = new pg.Client({
      connectionString: this.#options.connectionString,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    })
    client.on('error', () => undefined)
    try {
      await client.connect()
      return client
    } catch {
      // It tries again after any failure to connect: the time that this takes is measured.
      void client.end().catch(() => undefined)
      await delay(RECONNECT_MS)
      return undefined
    }
  }

  /** Throws where the connection cannot be used any more. */
  async #transact(client: pg.Client, number: number, journal: Journal, rng: Rng): Promise<void> {
    const key = this.#drawKey(rng)
    const beganMs = performance.now()
    if (rng.below(100) < READING_PERCENT) {
      const { rows } = await client.query<{ items: number[] }>(
        'select items from chaos_lists where key = $1',
        [key],
      )
      this.reads.push({ key, items: rows[0]?.items ?? [], beganMs, endedMs: performance.now() })
      return
    }
    const isRolledBack = rng.below(100) < ROLLED_BACK_PERCENT
    const sequence = journal.begin()
    const value = sequence * CLIENTS_MAX + number
    this.#appendsBegun++
    let outcome: Outcome = 'failed'
    let items: readonly number[] = []
    try {
      await client.query('begin')
      await client.query('insert into chaos_ledger values ($1, $2)', [number, sequence])
      const { rows } = await client.query<{ items: number[] }>(
        `insert into chaos_lists values ($1, array[$2::int])
         on conflict (key) do update set items = chaos_lists.items || excluded.items returning items`,
        [key, value],
      )
      items = rows[0]?.items ?? []
      if (isRolledBack) {
        await client.query('rollback')
      } else {
        outcome = 'unknown'
        const { command } = await client.query('commit')
        outcome = command === 'COMMIT' ? 'acknowledged' : 'failed'
      }
    } finally {
      const endedMs = performance.now()
      journal.note(sequence, outcome)
      this.appends.push({ key, value, outcome, beganMs, endedMs })
      if (outcome === 'acknowledged') {
        this.commitsMs.push(endedMs)
        this.reads.push({ key, items, beganMs, endedMs })
      }
    }
  }
}

/** The errors that a client may meet when its server dies. */
function isExpected(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  return (
    /^(57P0.|08...|28000|53300|ECONN.*|EPIPE|ETIMEDOUT)$/.test(code) ||
    /^Connection terminated|not queryable|Client was closed/.test(error.message)
  )
}

const LETTERS = { a: 'acknowledged', u: 'unknown', f: 'failed' } as const satisfies Record<string, Outcome>

/** One line an attempt, once its outcome is known: `a 17`. Synced line by line. */
class Journal {
  readonly #file: number
  #sequence = 0

  constructor(folder: string, client: number) {
    this.#file = openSync(join(folder, `client-${client}.journal`), 'wx')
  }

  begin(): number {
    return ++this.#sequence
  }

  note(sequence: number, outcome: Outcome): void {
    writeSync(this.#file, `${outcome.charAt(0)} ${sequence}\n`)
    if (outcome === 'acknowledged') fdatasyncSync(this.#file)
  }

  close(): void {
    closeSync(this.#file)
  }
}

/** By client and sequence, what the journals of a folder say so far. */
function readJournals(folder: string): ReadonlyMap<number, ReadonlyMap<number, Outcome>> {
  const clients = new Map<number, ReadonlyMap<number, Outcome>>()
  for (const name of readdirSync(folder)) {
    const client = /^client-(\d+)\.journal$/.exec(name)?.[1]
    if (client === undefined) continue
    const outcomes = new Map<number, Outcome>()
    for (const line of readFileSync(join(folder, name), 'latin1').split('\n').slice(0, -1)) {
      const [letter = '', sequence = ''] = line.split(' ')
      const outcome = LETTERS[letter as keyof typeof LETTERS] as Outcome | undefined
      if (outcome === undefined) throw fail('bad_file', `journal "${name}" has the line "${line}"`)
      outcomes.set(Number(sequence), outcome)
    }
    clients.set(Number(client), outcomes)
  }
  return clients
}

export interface LedgerCheck {
  readonly acknowledged: number
  readonly unknown: number
  readonly rolledBack: number
  /** `client/sequence`. */
  readonly lost: readonly string[]
  readonly ghosts: readonly string[]
}

/** Compares the table with the journals, while clients may be at work: only what was acknowledged before counts. */
export async function checkLedger(client: pg.Client, folder: string): Promise<LedgerCheck> {
  const before = readJournals(folder)
  const { rows } = await client.query<{ client: number; sequences: number[] }>(
    'select client, array_agg(sequence) as sequences from chaos_ledger group by client',
  )
  const after = readJournals(folder)
  const present = new Map(rows.map((row) => [row.client, new Set(row.sequences)]))
  const check = { acknowledged: 0, unknown: 0, rolledBack: 0 }
  const [lost, ghosts]: [string[], string[]] = [[], []]
  for (const [number, outcomes] of before) {
    for (const [sequence, outcome] of outcomes) {
      if (outcome === 'acknowledged') check.acknowledged++
      else if (outcome === 'unknown') check.unknown++
      else check.rolledBack++
      if (outcome === 'acknowledged' && present.get(number)?.has(sequence) !== true)
        lost.push(`${number}/${sequence}`)
    }
  }
  for (const { client: number, sequences } of rows) {
    const outcomes = after.get(number)
    // One attempt of each client may be on its way and have no line yet.
    const open = (outcomes === undefined ? 0 : lastOf(outcomes)) + 1
    const seen = new Set<number>()
    for (const sequence of sequences) {
      const isKnown =
        outcomes?.has(sequence) === true ? outcomes.get(sequence) !== 'failed' : sequence === open
      if (!isKnown || seen.has(sequence)) ghosts.push(`${number}/${sequence}`)
      seen.add(sequence)
    }
  }
  return { ...check, lost, ghosts }
}

/** The lists as they are, by key. */
export async function readLists(client: pg.Client): Promise<Map<number, readonly number[]>> {
  const { rows } = await client.query<{ key: number; items: number[] }>('select key, items from chaos_lists')
  return new Map(rows.map(({ key, items }) => [key, items]))
}

/** A journal's lines come in order. */
const lastOf = (outcomes: ReadonlyMap<number, Outcome>): number => [...outcomes.keys()].at(-1) ?? 0
