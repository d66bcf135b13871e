/**
 * pgbench's built-in script "TPC-B (sort of)" (PostgreSQL 17, src/bin/pgbench/pgbench.c, builtin_script), the
 * seven statements of a transaction in one round trip.
 */
import type pg from 'pg'
import { fail } from '@understory/base'
import type { Random } from '../random.ts'
import { BEGIN, COMMIT, type Session, type Statement } from '../session.ts'
import {
  type ConsistencyCheck,
  type Workload,
  type WorkloadClient,
  type WorkloadRun,
  runChecks,
} from '../workload.ts'

const UPDATE_ACCOUNT: Statement = {
  name: 'account',
  text: 'update pgbench_accounts set abalance = abalance + $1::int where aid = $2::int',
}
const SELECT_ACCOUNT: Statement = {
  name: 'balance',
  text: 'select abalance from pgbench_accounts where aid = $1::int',
}
const UPDATE_TELLER: Statement = {
  name: 'teller',
  text: 'update pgbench_tellers set tbalance = tbalance + $1::int where tid = $2::int',
}
const UPDATE_BRANCH: Statement = {
  name: 'branch',
  text: 'update pgbench_branches set bbalance = bbalance + $1::int where bid = $2::int',
}
const INSERT_HISTORY: Statement = {
  name: 'history',
  text: `insert into pgbench_history (tid, bid, aid, delta, mtime)
         values ($1::int, $2::int, $3::int, $4::int, current_timestamp)`,
}

const DELTA_MAX = 5_000

export const tpcb: Workload = {
  name: 'tpcb',
  transactions: ['tpcb'],
  headline: undefined,
  statements: [UPDATE_ACCOUNT, SELECT_ACCOUNT, UPDATE_TELLER, UPDATE_BRANCH, INSERT_HISTORY],
  prepare,
}

async function prepare(client: pg.Client): Promise<WorkloadRun> {
  const counts = await readScale(client)
  return { client: (_, random) => new TpcbClient(counts, random) }
}

interface Counts {
  readonly branches: number
  readonly tellers: number
  readonly accounts: number
}

async function readScale(client: pg.Client): Promise<Counts> {
  const {
    rows: [exists],
  } = await client.query<[boolean]>({
    text: `select to_regclass('pgbench_accounts') is not null`,
    rowMode: 'array',
  })
  if (exists?.[0] !== true) throw notLoaded()
  const { rows } = await client.query<[number | null, number | null, number | null]>({
    text: `select (select max(bid) from pgbench_branches), (select max(tid) from pgbench_tellers),
                  (select max(aid) from pgbench_accounts)`,
    rowMode: 'array',
  })
  const [branches, tellers, accounts] = rows[0] ?? []
  if (branches == null || tellers == null || accounts == null) throw notLoaded()
  return { branches, tellers, accounts }
}

function notLoaded(): Error {
  return fail('precondition', 'the database has no pgbench tables', { hint: 'Run "tpcb load" first.' })
}

class TpcbClient implements WorkloadClient {
  readonly #counts: Counts
  readonly #random: Random

  constructor(counts: Counts, random: Random) {
    this.#counts = counts
    this.#random = random
  }

  draw(): number {
    return 0
  }

  async run(_: number, session: Session, mark: () => void): Promise<'committed'> {
    const [counts, random] = [this.#counts, this.#random]
    const account = random.between(1, counts.accounts)
    const branch = random.between(1, counts.branches)
    const teller = random.between(1, counts.tellers)
    const delta = random.between(-DELTA_MAX, DELTA_MAX)
    session.add(BEGIN)
    session.add(UPDATE_ACCOUNT, delta, account)
    session.add(SELECT_ACCOUNT, account)
    session.add(UPDATE_TELLER, delta, teller)
    session.add(UPDATE_BRANCH, delta, branch)
    session.add(INSERT_HISTORY, teller, branch, account, delta)
    mark()
    session.add(COMMIT)
    await session.send()
    return 'committed'
  }
}

/** Every transaction adds its delta to one account, teller and branch: by all of them, the sums are equal. */
export function checkTpcb(client: pg.Client): Promise<readonly ConsistencyCheck[]> {
  return runChecks(client, {
    'sums of accounts, tellers, branches and history are equal': `
      select * from (select (select coalesce(sum(abalance), 0) from pgbench_accounts) as accounts,
                            (select coalesce(sum(tbalance), 0) from pgbench_tellers) as tellers,
                            (select coalesce(sum(bbalance), 0) from pgbench_branches) as branches,
                            (select coalesce(sum(delta), 0) from pgbench_history) as history) as sums
      where not (accounts = tellers and tellers = branches and branches = history)`,
    'each branch is the sum of its history': `
      select bid, bbalance, sum from pgbench_branches
      full join (select bid, sum(delta) from pgbench_history group by bid) as history using (bid)
      where coalesce(bbalance, 0) <> coalesce(sum, 0)`,
    'each teller is the sum of its history': `
      select tid, tbalance, sum from pgbench_tellers
      full join (select tid, sum(delta) from pgbench_history group by tid) as history using (tid)
      where coalesce(tbalance, 0) <> coalesce(sum, 0)`,
    'each account is the sum of its history': `
      select aid, abalance, sum from pgbench_accounts
      full join (select aid, sum(delta) from pgbench_history group by aid) as history using (aid)
      where coalesce(abalance, 0) <> coalesce(sum, 0)`,
  })
}
