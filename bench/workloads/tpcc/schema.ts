/**
 * The nine tables of TPC-C (standard specification 5.11, clause 1.3) with their primary keys and the two
 * usual further indexes: customers by last name, and a customer's orders. Foreign keys are left out, as
 * benchmark kits do: the clauses require them of the data, which the loader and the transactions keep, and
 * not of the database.
 */
export interface TpccTable {
  readonly name: string
  readonly columns: string
  /** Run after the rows are there. */
  readonly indexes: readonly string[]
}

const ADDRESS = (prefix: string) => `
  ${prefix}_street_1 varchar(20) not null, ${prefix}_street_2 varchar(20) not null, ${prefix}_city varchar(20) not null,
  ${prefix}_state char(2) not null, ${prefix}_zip char(9) not null`

const STOCK_DISTRICTS = Array.from({ length: 10 }, (_, i) => `s_dist_${String(i + 1).padStart(2, '0')}`)

export const TABLES = {
  warehouse: {
    name: 'warehouse',
    columns: `w_id int not null, w_name varchar(10) not null, ${ADDRESS('w')}, w_tax numeric(4, 4) not null,
      w_ytd numeric(12, 2) not null`,
    indexes: ['alter table warehouse add primary key (w_id)'],
  },
  district: {
    name: 'district',
    columns: `d_id int not null, d_w_id int not null, d_name varchar(10) not null, ${ADDRESS('d')},
      d_tax numeric(4, 4) not null, d_ytd numeric(12, 2) not null, d_next_o_id int not null`,
    indexes: ['alter table district add primary key (d_w_id, d_id)'],
  },
  customer: {
    name: 'customer',
    columns: `c_id int not null, c_d_id int not null, c_w_id int not null, c_first varchar(16) not null,
      c_middle char(2) not null, c_last varchar(16) not null, ${ADDRESS('c')}, c_phone char(16) not null,
      c_since timestamp not null, c_credit char(2) not null, c_credit_lim numeric(12, 2) not null,
      c_discount numeric(4, 4) not null, c_balance numeric(12, 2) not null, c_ytd_payment numeric(12, 2) not null,
      c_payment_cnt int not null, c_delivery_cnt int not null, c_data varchar(500) not null`,
    indexes: [
      'alter table customer add primary key (c_w_id, c_d_id, c_id)',
      'create index customer_name on customer (c_w_id, c_d_id, c_last, c_first)',
    ],
  },
  history: {
    name: 'history',
    columns: `h_c_id int not null, h_c_d_id int not null, h_c_w_id int not null, h_d_id int not null,
      h_w_id int not null, h_date timestamp not null, h_amount numeric(6, 2) not null, h_data varchar(24) not null`,
    indexes: [],
  },
  newOrder: {
    name: 'new_order',
    columns: 'no_o_id int not null, no_d_id int not null, no_w_id int not null',
    indexes: ['alter table new_order add primary key (no_w_id, no_d_id, no_o_id)'],
  },
  orders: {
    name: 'orders',
    columns: `o_id int not null, o_d_id int not null, o_w_id int not null, o_c_id int not null,
      o_entry_d timestamp not null, o_carrier_id int, o_ol_cnt int not null, o_all_local int not null`,
    indexes: [
      'alter table orders add primary key (o_w_id, o_d_id, o_id)',
      'create unique index orders_customer on orders (o_w_id, o_d_id, o_c_id, o_id)',
    ],
  },
  orderLine: {
    name: 'order_line',
    columns: `ol_o_id int not null, ol_d_id int not null, ol_w_id int not null, ol_number int not null,
      ol_i_id int not null, ol_supply_w_id int not null, ol_delivery_d timestamp, ol_quantity int not null,
      ol_amount numeric(6, 2) not null, ol_dist_info char(24) not null`,
    indexes: ['alter table order_line add primary key (ol_w_id, ol_d_id, ol_o_id, ol_number)'],
  },
  item: {
    name: 'item',
    columns: `i_id int not null, i_im_id int not null, i_name varchar(24) not null, i_price numeric(5, 2) not null,
      i_data varchar(50) not null`,
    indexes: ['alter table item add primary key (i_id)'],
  },
  stock: {
    name: 'stock',
    // What New-Order changes stands together, as in other kits for Postgres: the WAL of an update within a
    // page leaves out only the common beginning and end of the two row versions.
    columns: `s_i_id int not null, s_w_id int not null, s_quantity int not null, s_ytd int not null,
      s_order_cnt int not null, s_remote_cnt int not null, s_data varchar(50) not null,
      ${STOCK_DISTRICTS.map((name) => `${name} char(24) not null`).join(', ')}`,
    indexes: ['alter table stock add primary key (s_w_id, s_i_id)'],
  },
} as const satisfies Record<string, TpccTable>

export type TpccTableName = keyof typeof TABLES

/**
 * The stock column that an order of this district is delivered from, as an SQL expression over the parameter.
 */
export function stockDistrictColumn(parameter: string): string {
  const branches = STOCK_DISTRICTS.map((name, i) => `when ${i + 1} then ${name}`).join(' ')
  return `case ${parameter} ${branches} end`
}
