/**
 * The SQL of the five transactions. Reads and writes are those of TPC-C's clauses 2.4 to 2.8; what a clause
 * does row by row in a loop is one statement over `unnest` here. What the terminal would show is returned by
 * the statements.
 */
import type { Statement } from '../session.ts'
import { stockDistrictColumn } from './schema.ts'

// New-Order

export const SELECT_BUYER: Statement = {
  name: 'buyer',
  text: `select w_tax, c_discount, c_last, c_credit from warehouse, customer
         where w_id = $1::int and c_w_id = $1 and c_d_id = $2::int and c_id = $3::int`,
}
export const TAKE_ORDER_ID: Statement = {
  name: 'orderId',
  text: `update district set d_next_o_id = d_next_o_id + 1 where d_w_id = $1::int and d_id = $2::int
         returning d_next_o_id - 1, d_tax`,
}
export const SELECT_ITEMS: Statement = {
  name: 'items',
  text: 'select i_id, i_price, i_name, i_data from item where i_id = any ($1::int[])',
}
/** Items, supplying warehouses and quantities in arrays; then the order's district and warehouse. */
export const TAKE_STOCK: Statement = {
  name: 'takeStock',
  text: `update stock
         set s_quantity = case when s_quantity >= quantity + 10 then s_quantity - quantity
                               else s_quantity - quantity + 91 end,
             s_ytd = s_ytd + quantity, s_order_cnt = s_order_cnt + 1,
             s_remote_cnt = s_remote_cnt + case when supplier = $5::int then 0 else 1 end
         from unnest($1::int[], $2::int[], $3::int[]) as line (item, supplier, quantity)
         where s_w_id = supplier and s_i_id = item
         returning s_i_id, ${stockDistrictColumn('$4::int')}, s_quantity, s_data`,
}
export const INSERT_ORDER: Statement = {
  name: 'order',
  text: `insert into orders (o_id, o_d_id, o_w_id, o_c_id, o_entry_d, o_ol_cnt, o_all_local)
         values ($1::int, $2::int, $3::int, $4::int, current_timestamp, $5::int, $6::int)`,
}
export const INSERT_NEW_ORDER: Statement = {
  name: 'newOrder',
  text: 'insert into new_order (no_o_id, no_d_id, no_w_id) values ($1::int, $2::int, $3::int)',
}
export const INSERT_ORDER_LINES: Statement = {
  name: 'orderLines',
  text: `insert into order_line (ol_o_id, ol_d_id, ol_w_id, ol_number, ol_i_id, ol_supply_w_id, ol_quantity, ol_amount,
                                 ol_dist_info)
         select $1::int, $2::int, $3::int, number, item, supplier, quantity, amount, info
         from unnest($4::int[], $5::int[], $6::int[], $7::numeric[], $8::text[])
              with ordinality as line (item, supplier, quantity, amount, info, number)`,
}

// Payment and Order-Status

/** The one in the middle, rounded up, of those with this last name by first name (clause 2.5.2.2). */
export const SELECT_CUSTOMER_BY_NAME: Statement = {
  name: 'byName',
  text: `select (array_agg(c_id order by c_first))[(count(*) + 1) / 2] from customer
         where c_w_id = $1::int and c_d_id = $2::int and c_last = $3::varchar`,
}
export const PAY_WAREHOUSE: Statement = {
  name: 'payWarehouse',
  text: `update warehouse set w_ytd = w_ytd + $1::numeric where w_id = $2::int
         returning w_name, w_street_1, w_street_2, w_city, w_state, w_zip`,
}
export const PAY_DISTRICT: Statement = {
  name: 'payDistrict',
  text: `update district set d_ytd = d_ytd + $1::numeric where d_w_id = $2::int and d_id = $3::int
         returning d_name, d_street_1, d_street_2, d_city, d_state, d_zip`,
}
/** Amount; the customer's warehouse, district and id; the warehouse and district that took the payment. */
export const PAY_CUSTOMER: Statement = {
  name: 'payCustomer',
  text: `update customer
         set c_balance = c_balance - $1::numeric, c_ytd_payment = c_ytd_payment + $1, c_payment_cnt = c_payment_cnt + 1,
             c_data = case c_credit
               when 'BC' then left(concat_ws(' ', c_id, c_d_id, c_w_id, $6::int, $5::int, $1, c_data), 500)
               else c_data end
         where c_w_id = $2::int and c_d_id = $3::int and c_id = $4::int
         returning c_first, c_middle, c_last, c_street_1, c_street_2, c_city, c_state, c_zip, c_phone, c_since, c_credit,
                   c_credit_lim, c_discount, c_balance, case c_credit when 'BC' then left(c_data, 200) end`,
}
export const INSERT_HISTORY: Statement = {
  name: 'history',
  text: `insert into history (h_c_id, h_c_d_id, h_c_w_id, h_d_id, h_w_id, h_date, h_amount, h_data)
         select $4::int, $3::int, $2::int, $6::int, $5::int, current_timestamp, $1::numeric, w_name || '    ' || d_name
         from warehouse, district where w_id = $5 and d_w_id = $5 and d_id = $6`,
}
export const SELECT_CUSTOMER: Statement = {
  name: 'customer',
  text: `select c_balance, c_first, c_middle, c_last from customer
         where c_w_id = $1::int and c_d_id = $2::int and c_id = $3::int`,
}
export const SELECT_LAST_ORDER: Statement = {
  name: 'lastOrder',
  text: `select o_id, o_entry_d, o_carrier_id from orders where o_w_id = $1::int and o_d_id = $2::int and o_c_id = $3::int
         order by o_id desc limit 1`,
}
export const SELECT_ORDER_LINES: Statement = {
  name: 'lastLines',
  text: `select ol_i_id, ol_supply_w_id, ol_quantity, ol_amount, ol_delivery_d from order_line
         where ol_w_id = $1::int and ol_d_id = $2::int and ol_o_id = (
           select o_id from orders where o_w_id = $1 and o_d_id = $2 and o_c_id = $3::int order by o_id desc limit 1)`,
}

// Delivery

/**
 * Deliveries of one warehouse take turns: two at once would both choose the same oldest orders, and the one
 * that waited would deliver none. (To skip locked rows instead could leave a gap in the order of deliveries,
 * against condition 3.)
 */
export const LOCK_DELIVERY: Statement = {
  name: 'lockDelivery',
  text: `select pg_advisory_xact_lock(hashtext('understory tpcc delivery'), $1::int)`,
}
export const TAKE_OLDEST_ORDERS: Statement = {
  name: 'oldest',
  text: `delete from new_order using (
           select district, (select no_o_id from new_order where no_w_id = $1::int and no_d_id = district
                             order by no_o_id limit 1) as order_id
           from generate_series(1, $2::int) as district) as oldest
         where no_w_id = $1 and no_d_id = district and no_o_id = order_id
         returning no_d_id, no_o_id`,
}
/** Warehouse, districts, orders, and the carrier. */
export const DELIVER_ORDERS: Statement = {
  name: 'deliver',
  text: `update orders set o_carrier_id = $4::int from unnest($2::int[], $3::int[]) as taken (district, order_id)
         where o_w_id = $1::int and o_d_id = district and o_id = order_id`,
}
export const DELIVER_LINES: Statement = {
  name: 'deliverLines',
  text: `update order_line set ol_delivery_d = current_timestamp
         from unnest($2::int[], $3::int[]) as taken (district, order_id)
         where ol_w_id = $1::int and ol_d_id = district and ol_o_id = order_id`,
}
export const CHARGE_CUSTOMERS: Statement = {
  name: 'charge',
  text: `update customer set c_balance = c_balance + amount, c_delivery_cnt = c_delivery_cnt + 1
         from (select district, o_c_id, (select sum(ol_amount) from order_line
                                         where ol_w_id = $1::int and ol_d_id = district and ol_o_id = order_id) as amount
               from unnest($2::int[], $3::int[]) as taken (district, order_id)
               join orders on o_w_id = $1 and o_d_id = district and o_id = order_id) as delivered
         where c_w_id = $1 and c_d_id = district and c_id = o_c_id`,
}

// Stock-Level

export const COUNT_LOW_STOCK: Statement = {
  name: 'stockLevel',
  text: `select count(distinct s_i_id) from district, order_line, stock
         where d_w_id = $1::int and d_id = $2::int
           and ol_w_id = $1 and ol_d_id = $2 and ol_o_id >= d_next_o_id - 20 and ol_o_id < d_next_o_id
           and s_w_id = $1 and s_i_id = ol_i_id and s_quantity < $3::int`,
}
