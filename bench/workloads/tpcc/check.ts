/**
 * The consistency conditions 1 to 4 of TPC-C (clauses 3.3.2.1 to 3.3.2.4), which hold after every transaction
 * commit. A row that a query returns is a violation.
 */
import type pg from 'pg'
import { type ConsistencyCheck, runChecks } from '../workload.ts'

export function checkTpcc(client: pg.Client): Promise<readonly ConsistencyCheck[]> {
  return runChecks(client, {
    'W_YTD = sum(D_YTD)': `
      select w_id, w_ytd, sum(d_ytd) as d_ytd from warehouse left join district on d_w_id = w_id
      group by w_id, w_ytd having w_ytd is distinct from sum(d_ytd)`,
    // All orders of a district may be delivered, so that no new one is left to compare with.
    'D_NEXT_O_ID - 1 = max(O_ID) = max(NO_O_ID)': `
      select d_w_id, d_id, d_next_o_id, o_id, no_o_id from district
      left join (select o_w_id, o_d_id, max(o_id) as o_id from orders group by 1, 2) as orders
        on o_w_id = d_w_id and o_d_id = d_id
      left join (select no_w_id, no_d_id, max(no_o_id) as no_o_id from new_order group by 1, 2) as new_order
        on no_w_id = d_w_id and no_d_id = d_id
      where d_next_o_id - 1 is distinct from o_id or d_next_o_id - 1 <> no_o_id`,
    'max(NO_O_ID) - min(NO_O_ID) + 1 = count(NEW_ORDER)': `
      select no_w_id, no_d_id, min(no_o_id), max(no_o_id), count(*) from new_order
      group by 1, 2 having max(no_o_id) - min(no_o_id) + 1 <> count(*)`,
    'sum(O_OL_CNT) = count(ORDER_LINE)': `
      select o_w_id, o_d_id, o_lines, ol_lines
      from (select o_w_id, o_d_id, sum(o_ol_cnt) as o_lines from orders group by 1, 2) as orders
      full join (select ol_w_id, ol_d_id, count(*) as ol_lines from order_line group by 1, 2) as order_line
        on ol_w_id = o_w_id and ol_d_id = o_d_id
      where o_lines is distinct from ol_lines`,
  })
}
