/**
 * The initial population of TPC-C (clause 4.3.3). A few connections share the tables; each is made, filled by
 * COPY FREEZE and indexed in one transaction. The rows depend on nothing but the seed and the scale: the
 * number of lines of an order, which two tables must agree upon, both draw from one generator.
 */
import pg from 'pg'
import { type RowSource, type RowWriter, copyIn } from '../copy.ts'
import { createLedgerTable } from '../ledger.ts'
import { Random } from '../random.ts'
import { CUSTOMERS_PER_DISTRICT, DISTRICTS_PER_WAREHOUSE, ITEMS_COUNT, loadedLastName } from './keys.ts'
import { TABLES, type TpccTableName } from './schema.ts'

export interface TpccScale {
  readonly warehouses: number
  /** The standard's 100,000 unless a test wants less. */
  readonly items: number
  /** And orders: the standard has one of each customer. */
  readonly customersPerDistrict: number
}

export interface TpccLoadOptions {
  readonly connectionString: string
  readonly warehouses: number
  readonly items?: number
  readonly customersPerDistrict?: number
  readonly seed?: number
  readonly onProgress?: (text: string) => void
}

/** Client and servers share the machine: one connection generates while the servers of two others work. */
const CONNECTIONS_COUNT = 3
const LOADED_AT = '2026-01-01 00:00:00'
/** The last 30 % of the orders are not delivered yet. */
const DELIVERED_SHARE = 0.7

export async function loadTpcc(options: TpccLoadOptions): Promise<void> {
  const { connectionString, onProgress, seed = 1 } = options
  const scale: TpccScale = {
    warehouses: options.warehouses,
    items: options.items ?? ITEMS_COUNT,
    customersPerDistrict: options.customersPerDistrict ?? CUSTOMERS_PER_DISTRICT,
  }
  // The largest first, so that the connections end at about the same time.
  const waiting: TpccTableName[] = [
    'stock',
    'orderLine',
    'customer',
    'orders',
    'history',
    'item',
    'newOrder',
    'district',
    'warehouse',
  ]
  const clients = await Promise.all(
    Array.from({ length: CONNECTIONS_COUNT }, () => connect(connectionString)),
  )
  try {
    const [first] = clients as [pg.Client]
    await first.query(
      `drop table if exists ${Object.values(TABLES)
        .map(({ name }) => name)
        .join(', ')}`,
    )
    await createLedgerTable(first)
    await Promise.all(
      clients.map(async (client) => {
        for (let table = waiting.shift(); table !== undefined; table = waiting.shift()) {
          const rowsCount = await loadTable(client, table, scale, seed)
          onProgress?.(`${TABLES[table].name}: ${rowsCount} rows`)
        }
      }),
    )
  } finally {
    await Promise.all(clients.map((client) => client.end()))
  }
}

async function connect(connectionString: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString })
  client.on('error', () => undefined)
  await client.connect()
  return client
}

async function loadTable(
  client: pg.Client,
  table: TpccTableName,
  scale: TpccScale,
  seed: number,
): Promise<number> {
  const { name, columns, indexes } = TABLES[table]
  const random = new Random(seed, STREAMS.indexOf(table))
  await client.query('begin')
  await client.query(`create table ${name} (${columns})`)
  const rowsCount = await copyIn(
    client,
    `copy ${name} from stdin with (freeze)`,
    random,
    SOURCES[table](scale, seed, random),
  )
  for (const index of indexes) await client.query(index)
  await client.query('commit')
  await client.query(`vacuum analyze ${name}`)
  return rowsCount
}

/** The place of a table here is its stream of the seed; append only. */
const STREAMS: readonly TpccTableName[] = [
  'warehouse',
  'district',
  'customer',
  'history',
  'newOrder',
  'orders',
  'orderLine',
  'item',
  'stock',
]

/** The maker of the rows of a table. `random` is the table's own generator. */
type Source = (scale: TpccScale, seed: number, random: Random) => RowSource

const SOURCES: Readonly<Record<TpccTableName, Source>> = {
  warehouse: ({ warehouses }, _, random) =>
    function* (rows) {
      for (let warehouse = 1; warehouse <= warehouses; warehouse++) {
        rows.int(warehouse).random(random, 6, 10)
        address(rows, random)
        rows
          .text(tenThousandths(random.between(0, 2_000)))
          .hundredths(DISTRICTS_PER_WAREHOUSE * DISTRICT_YTD)
          .end()
        yield
      }
    },

  district: ({ warehouses, customersPerDistrict }, _, random) =>
    function* (rows) {
      for (const [warehouse, district] of districts(warehouses)) {
        rows.int(district).int(warehouse).random(random, 6, 10)
        address(rows, random)
        rows
          .text(tenThousandths(random.between(0, 2_000)))
          .hundredths(DISTRICT_YTD)
          .int(customersPerDistrict + 1)
          .end()
        yield
      }
    },

  customer: ({ warehouses, customersPerDistrict }, _, random) =>
    function* (rows) {
      for (const [warehouse, district] of districts(warehouses)) {
        for (let customer = 1; customer <= customersPerDistrict; customer++) {
          rows.int(customer).int(district).int(warehouse)
          rows.random(random, 8, 16).text('OE').text(loadedLastName(random, customer))
          address(rows, random)
          rows
            .text(digits(random, 16))
            .text(LOADED_AT)
            .text(random.chance(10) ? 'BC' : 'GC')
          rows.hundredths(5_000_000).text(tenThousandths(random.between(0, 5_000)))
          rows.hundredths(-1_000).hundredths(1_000).int(1).int(0).random(random, 300, 500).end()
          yield
        }
      }
    },

  history: ({ warehouses, customersPerDistrict }, _, random) =>
    function* (rows) {
      for (const [warehouse, district] of districts(warehouses)) {
        for (let customer = 1; customer <= customersPerDistrict; customer++) {
          rows.int(customer).int(district).int(warehouse).int(district).int(warehouse)
          rows.text(LOADED_AT).hundredths(1_000).random(random, 12, 24).end()
          yield
        }
      }
    },

  newOrder: ({ warehouses, customersPerDistrict }) =>
    function* (rows) {
      for (const [warehouse, district] of districts(warehouses)) {
        for (let order = deliveredCount(customersPerDistrict) + 1; order <= customersPerDistrict; order++) {
          rows.int(order).int(district).int(warehouse).end()
          yield
        }
      }
    },

  orders: ({ warehouses, customersPerDistrict }, seed, random) =>
    function* (rows) {
      for (const [warehouse, district] of districts(warehouses)) {
        const customers = permutation(customersPerDistrict, random)
        const linesCounts = new Random(seed, ORDER_LINES_STREAM, warehouse, district)
        for (let order = 1; order <= customersPerDistrict; order++) {
          rows
            .int(order)
            .int(district)
            .int(warehouse)
            .int(customers[order - 1] as number)
            .text(LOADED_AT)
          if (order <= deliveredCount(customersPerDistrict)) rows.int(random.between(1, 10))
          else rows.null()
          rows.int(linesCounts.between(5, 15)).int(1).end()
          yield
        }
      }
    },

  orderLine: ({ warehouses, items, customersPerDistrict }, seed, random) =>
    function* (rows) {
      for (const [warehouse, district] of districts(warehouses)) {
        const linesCounts = new Random(seed, ORDER_LINES_STREAM, warehouse, district)
        for (let order = 1; order <= customersPerDistrict; order++) {
          const linesCount = linesCounts.between(5, 15)
          const isDelivered = order <= deliveredCount(customersPerDistrict)
          for (let line = 1; line <= linesCount; line++) {
            rows
              .int(order)
              .int(district)
              .int(warehouse)
              .int(line)
              .int(random.between(1, items))
              .int(warehouse)
            if (isDelivered) rows.text(LOADED_AT).int(5).hundredths(0)
            else rows.null().int(5).hundredths(random.between(1, 999_999))
            rows.random(random, 24, 24).end()
            yield
          }
        }
      }
    },

  item: ({ items }, _, random) =>
    function* (rows) {
      for (let item = 1; item <= items; item++) {
        rows
          .int(item)
          .int(random.between(1, 10_000))
          .random(random, 14, 24)
          .hundredths(random.between(100, 10_000))
        rows.random(random, 26, 50, original(random)).end()
        yield
      }
    },

  stock: ({ warehouses, items }, _, random) =>
    function* (rows) {
      for (let warehouse = 1; warehouse <= warehouses; warehouse++) {
        for (let item = 1; item <= items; item++) {
          rows.int(item).int(warehouse).int(random.between(10, 100)).int(0).int(0).int(0)
          rows.random(random, 26, 50, original(random))
          for (let district = 1; district <= DISTRICTS_PER_WAREHOUSE; district++) rows.random(random, 24, 24)
          rows.end()
          yield
        }
      }
    },
}

const DISTRICT_YTD = 3_000_000
/** A stream apart from those of the tables. */
const ORDER_LINES_STREAM = 100

function* districts(warehouses: number): Generator<readonly [number, number]> {
  for (let warehouse = 1; warehouse <= warehouses; warehouse++) {
    for (let district = 1; district <= DISTRICTS_PER_WAREHOUSE; district++) yield [warehouse, district]
  }
}

function deliveredCount(ordersCount: number): number {
  return Math.floor(ordersCount * DELIVERED_SHARE)
}

function address(rows: RowWriter, random: Random): void {
  rows.random(random, 10, 20).random(random, 10, 20).random(random, 10, 20).random(random, 2, 2)
  rows.text(`${digits(random, 4)}11111`)
}

function digits(random: Random, length: number): string {
  let text = ''
  for (let i = 0; i < length; i++) text += random.between(0, 9)
  return text
}

function tenThousandths(value: number): string {
  return `0.${String(value).padStart(4, '0')}`
}

/** A tenth of the items and stocks are marked. */
function original(random: Random): string {
  return random.chance(10) ? 'ORIGINAL' : ''
}

function permutation(count: number, random: Random): Int32Array {
  const values = Int32Array.from({ length: count }, (_, i) => i + 1)
  for (let i = count - 1; i > 0; i--) {
    const other = random.between(0, i)
    const value = values[i] as number
    values[i] = values[other] as number
    values[other] = value
  }
  return values
}
