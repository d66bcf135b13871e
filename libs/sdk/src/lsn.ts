/** LSNs as PostgreSQL writes them. */
import { formatLsn, lsnFromBigint, lsnFromHalves, lsnToBigint, parseLsn, fail } from '@understory/base'
import { PAGE_SIZE } from '@understory/protocol/page-client'

/** An LSN of a message as PostgreSQL writes it: `16/B374D848`. */
export const lsnText = (position: bigint): string => formatLsn(lsnFromBigint(position))

/** The other way round. */
export const lsnPosition = (text: string): bigint => lsnToBigint(parseLsn(text))

/** pd_lsn of a page: where the last change of it ends. Source: storage/bufpage.h, PageHeaderData. */
export function pageLsn(page: Uint8Array): string {
  if (!(page instanceof Uint8Array) || page.length !== PAGE_SIZE) {
    const found = page instanceof Uint8Array ? String(page.length) : 'none'
    throw fail('bad_argument', `a page has ${PAGE_SIZE} bytes, not ${found}`, {
      hint: 'A block that was never written is undefined.',
    })
  }
  const view = new DataView(page.buffer, page.byteOffset, page.length)
  return formatLsn(lsnFromHalves(view.getUint32(0, true), view.getUint32(4, true)))
}
