/**
 * Runs within the cluster, in a pod of the services' image: writers that note every acknowledged row, until `/tmp/stop`
 * is there. Every second a line of JSON says how many there are and how long the longest wait for one was; the last
 * line lists rows that were acknowledged and are gone.
 */
import { existsSync } from 'node:fs'
import pg from 'pg'

const WRITERS_COUNT = 4
const REPORT_MS = 1_000
const RETRY_MS = 50
const CHECK_MS_MAX = 300_000

// By itself node-postgres would look for an authority behind the certificate.
const connectionString = `${process.env.E2E_SQL}&uselibpqcompat=true`
const acknowledged = []
let lastAckMs = performance.now()
let longestMs = 0
let failures = 0
let lastProblem = ''

function note(id) {
  const nowMs = performance.now()
  longestMs = Math.max(longestMs, nowMs - lastAckMs)
  lastAckMs = nowMs
  acknowledged.push(id)
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const isOver = () => existsSync('/tmp/stop')

async function withClient(use) {
  const client = new pg.Client({
    connectionString,
    connectionTimeoutMillis: 2_000,
    query_timeout: 20_000,
    keepAlive: true,
  })
  client.on('error', () => undefined)
  try {
    await client.connect()
    return await use(client)
  } finally {
    // A connection to a pod that is gone does not say goodbye.
    void client.end().catch(() => undefined)
  }
}

async function write(writer) {
  let next = 0
  while (!isOver()) {
    try {
      await withClient(async (client) => {
        while (!isOver()) {
          const id = `${writer}-${next++}`
          await client.query('insert into e2e (id) values ($1)', [id])
          note(id)
        }
      })
    } catch (error) {
      failures++
      lastProblem = error.message
      await pause(RETRY_MS)
    }
  }
}

async function retried(work) {
  const untilMs = performance.now() + CHECK_MS_MAX
  for (;;) {
    try {
      return await withClient(work)
    } catch (error) {
      if (performance.now() > untilMs) throw error
      await pause(500)
    }
  }
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

await retried((client) =>
  client.query('create table if not exists e2e (id text primary key, at timestamptz default now())'),
)
const reporting = setInterval(() => {
  const waitingMs = performance.now() - lastAckMs
  say({
    acknowledged: acknowledged.length,
    longestMs: Math.round(Math.max(longestMs, waitingMs)),
    failures,
    lastProblem,
  })
  longestMs = 0
  lastProblem = ''
}, REPORT_MS)
await Promise.all(Array.from({ length: WRITERS_COUNT }, (_, writer) => write(writer)))
clearInterval(reporting)
const { rows } = await retried((client) => client.query('select id from e2e'))
const found = new Set(rows.map(({ id }) => id))
say({ total: acknowledged.length, lost: acknowledged.filter((id) => !found.has(id)), failures })
process.exit(0)
