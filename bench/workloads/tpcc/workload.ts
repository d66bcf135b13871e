/**
 * TPC-C's five transactions in the standard mix, without terminals: no keying and no think times, and each
 * client has a home warehouse, as a terminal has. One to three round trips a transaction.
 */
import type pg from 'pg'
import { assert, fail } from '@understory/base'
import type { Random } from '../random.ts'
import { BEGIN, COMMIT, type Row, type Session } from '../session.ts'
import type { Workload, WorkloadClient, WorkloadRun } from '../workload.ts'
import { DISTRICTS_PER_WAREHOUSE, drawCustomer, drawItem, drawLastName } from './keys.ts'
import type { TpccScale } from './load.ts'
import * as sql from './statements.ts'

const NEW_ORDER = 0
const PAYMENT = 1
const ORDER_STATUS = 2
const DELIVERY = 3
const STOCK_LEVEL = 4

/** Drawn by weight, one of the two ways of clause 5.2.4.2; the other is a shuffled deck. */
const MIX_PERCENT = [45, 43, 4, 4, 4] as const

export const tpcc: Workload = {
  name: 'tpcc',
  transactions: ['newOrder', 'payment', 'orderStatus', 'delivery', 'stockLevel'],
  headline: NEW_ORDER,
  statements: Object.values(sql),
  prepare,
}

async function prepare(client: pg.Client): Promise<WorkloadRun> {
  const scale = await readScale(client)
  return { client: (index, random) => new TpccClient(scale, (index % scale.warehouses) + 1, random) }
}

async function readScale(client: pg.Client): Promise<TpccScale> {
  const {
    rows: [exists],
  } = await client.query<[boolean]>({
    text: `select to_regclass('warehouse') is not null and to_regclass('stock') is not null`,
    rowMode: 'array',
  })
  if (exists?.[0] !== true) throw notLoaded()
  const { rows } = await client.query<[number | null, number | null, number | null]>({
    text: `select (select max(w_id) from warehouse), (select max(i_id) from item),
                  (select max(c_id) from customer where c_w_id = 1 and c_d_id = 1)`,
    rowMode: 'array',
  })
  const [warehouses, items, customersPerDistrict] = rows[0] ?? []
  if (warehouses == null || items == null || customersPerDistrict == null) throw notLoaded()
  return { warehouses, items, customersPerDistrict }
}

function notLoaded(): Error {
  return fail('precondition', 'the database has no TPC-C data', { hint: 'Run "tpcc load" first.' })
}

type Outcome = 'committed' | 'rolledBack'

class TpccClient implements WorkloadClient {
  readonly #scale: TpccScale
  readonly #warehouse: number
  readonly #random: Random
  readonly #stockLevelDistrict: number

  constructor(scale: TpccScale, warehouse: number, random: Random) {
    this.#scale = scale
    this.#warehouse = warehouse
    this.#random = random
    this.#stockLevelDistrict = random.between(1, DISTRICTS_PER_WAREHOUSE)
  }

  draw(): number {
    let card = this.#random.between(0, 99)
    for (let i = 0; i < MIX_PERCENT.length - 1; i++) {
      card -= MIX_PERCENT[i] as number
      if (card < 0) return i
    }
    return STOCK_LEVEL
  }

  run(transaction: number, session: Session, mark: () => void): Promise<Outcome> {
    switch (transaction) {
      case NEW_ORDER:
        return this.#newOrder(session, mark)
      case PAYMENT:
        return this.#payment(session, mark)
      case ORDER_STATUS:
        return this.#orderStatus(session)
      case DELIVERY:
        return this.#delivery(session, mark)
      default:
        return this.#stockLevel(session)
    }
  }

  async #newOrder(session: Session, mark: () => void): Promise<Outcome> {
    const [random, scale, warehouse] = [this.#random, this.#scale, this.#warehouse]
    const district = random.between(1, DISTRICTS_PER_WAREHOUSE)
    const customer = drawCustomer(random, scale.customersPerDistrict)
    const items = this.#drawItems(random.between(5, 15))
    const suppliers: number[] = []
    const quantities: number[] = []
    let isAllLocal = 1
    for (let i = 0; i < items.length; i++) {
      const isRemote = scale.warehouses > 1 && random.chance(1)
      if (isRemote) isAllLocal = 0
      suppliers.push(isRemote ? this.#otherWarehouse() : warehouse)
      quantities.push(random.between(1, 10))
    }
    // One order in a hundred ends with an item that does not exist (clause 2.4.1.4), as the last one by its
    // number.
    if (random.chance(1)) items[items.length - 1] = scale.items + 1

    const itemsText = arrayText(items)
    const suppliersText = arrayText(suppliers)
    const quantitiesText = arrayText(quantities)
    session.add(BEGIN)
    session.add(sql.SELECT_BUYER, warehouse, district, customer)
    const orderAt = session.add(sql.TAKE_ORDER_ID, warehouse, district)
    const itemsAt = session.add(sql.SELECT_ITEMS, itemsText)
    const stockAt = session.add(sql.TAKE_STOCK, itemsText, suppliersText, quantitiesText, district, warehouse)
    mark()
    await session.send()

    const found = session.rows(itemsAt)
    if (found.length < items.length) {
      assert(items.includes(scale.items + 1), () => `found ${found.length} of the items ${itemsText}`)
      await session.rollback()
      return 'rolledBack'
    }
    const stocks = session.rows(stockAt)
    const orderId = (session.rows(orderAt)[0] as Row)[0] as string
    const amounts: string[] = []
    const infos: string[] = []
    for (let i = 0; i < items.length; i++) {
      const id = String(items[i])
      const price = Number(fieldOf(found, id))
      amounts.push(((Math.round(price * 100) * (quantities[i] as number)) / 100).toFixed(2))
      infos.push(fieldOf(stocks, id))
    }
    session.add(sql.INSERT_ORDER, orderId, district, warehouse, customer, items.length, isAllLocal)
    session.add(sql.INSERT_NEW_ORDER, orderId, district, warehouse)
    session.add(
      sql.INSERT_ORDER_LINES,
      orderId,
      district,
      warehouse,
      itemsText,
      suppliersText,
      quantitiesText,
      arrayText(amounts),
      arrayText(infos),
    )
    session.add(COMMIT)
    await session.send()
    return 'committed'
  }

  async #payment(session: Session, mark: () => void): Promise<Outcome> {
    const [random, scale, warehouse] = [this.#random, this.#scale, this.#warehouse]
    const district = random.between(1, DISTRICTS_PER_WAREHOUSE)
    const isRemote = scale.warehouses > 1 && random.chance(15)
    const customerWarehouse = isRemote ? this.#otherWarehouse() : warehouse
    const customerDistrict = isRemote ? random.between(1, DISTRICTS_PER_WAREHOUSE) : district
    const amount = (random.between(100, 500_000) / 100).toFixed(2)
    session.add(BEGIN)
    const customer = await this.#findCustomer(session, customerWarehouse, customerDistrict)
    session.add(sql.PAY_WAREHOUSE, amount, warehouse)
    session.add(sql.PAY_DISTRICT, amount, warehouse, district)
    const place = session.add(
      sql.PAY_CUSTOMER,
      amount,
      customerWarehouse,
      customerDistrict,
      customer,
      warehouse,
      district,
    )
    session.add(
      sql.INSERT_HISTORY,
      amount,
      customerWarehouse,
      customerDistrict,
      customer,
      warehouse,
      district,
    )
    mark()
    session.add(COMMIT)
    await session.send()
    assert(
      session.rows(place).length === 1,
      () => `no customer ${customerWarehouse}/${customerDistrict}/${customer}`,
    )
    return 'committed'
  }

  async #orderStatus(session: Session): Promise<Outcome> {
    const warehouse = this.#warehouse
    const district = this.#random.between(1, DISTRICTS_PER_WAREHOUSE)
    session.add(BEGIN)
    const customer = await this.#findCustomer(session, warehouse, district)
    session.add(sql.SELECT_CUSTOMER, warehouse, district, customer)
    session.add(sql.SELECT_LAST_ORDER, warehouse, district, customer)
    session.add(sql.SELECT_ORDER_LINES, warehouse, district, customer)
    session.add(COMMIT)
    await session.send()
    return 'committed'
  }

  async #delivery(session: Session, mark: () => void): Promise<Outcome> {
    const warehouse = this.#warehouse
    session.add(BEGIN)
    session.add(sql.LOCK_DELIVERY, warehouse)
    const place = session.add(sql.TAKE_OLDEST_ORDERS, warehouse, DISTRICTS_PER_WAREHOUSE)
    mark()
    await session.send()
    const taken = session.rows(place)
    const districts = arrayText(taken.map((row) => row[0] as string))
    const orders = arrayText(taken.map((row) => row[1] as string))
    session.add(sql.DELIVER_ORDERS, warehouse, districts, orders, this.#random.between(1, 10))
    session.add(sql.DELIVER_LINES, warehouse, districts, orders)
    session.add(sql.CHARGE_CUSTOMERS, warehouse, districts, orders)
    session.add(COMMIT)
    await session.send()
    return 'committed'
  }

  async #stockLevel(session: Session): Promise<Outcome> {
    session.add(BEGIN)
    session.add(sql.COUNT_LOW_STOCK, this.#warehouse, this.#stockLevelDistrict, this.#random.between(10, 20))
    session.add(COMMIT)
    await session.send()
    return 'committed'
  }

  /** By last name in 60 % of the cases, for which what was added to the session goes out with the query. */
  async #findCustomer(session: Session, warehouse: number, district: number): Promise<number | string> {
    const [random, scale] = [this.#random, this.#scale]
    if (!random.chance(60)) return drawCustomer(random, scale.customersPerDistrict)
    const name = drawLastName(random, scale.customersPerDistrict)
    const place = session.add(sql.SELECT_CUSTOMER_BY_NAME, warehouse, district, name)
    await session.send()
    const id = session.rows(place)[0]?.[0]
    assert(id != null, () => `no customer "${name}" in ${warehouse}/${district}`)
    return id
  }

  /** Different (an UPDATE changes a row once) and ascending, so that no two orders wait for each other. */
  #drawItems(count: number): number[] {
    const items: number[] = []
    while (items.length < count) {
      const item = drawItem(this.#random, this.#scale.items)
      if (!items.includes(item)) items.push(item)
    }
    return items.sort((a, b) => a - b)
  }

  #otherWarehouse(): number {
    const other = this.#random.between(1, this.#scale.warehouses - 1)
    return other < this.#warehouse ? other : other + 1
  }
}

/** Numbers and letters only: nothing to quote. */
function arrayText(values: readonly (number | string)[]): string {
  return `{${values.join(',')}}`
}

/** The second field of the row whose first is `id`. */
function fieldOf(rows: readonly Row[], id: string): string {
  for (const row of rows) if (row[0] === id) return row[1] as string
  return ''
}
