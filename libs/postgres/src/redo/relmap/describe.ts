/** Source: access/rmgrdesc/relmapdesc.c, relmap_identify (16, 17, 18 alike). */
import { XLOG_RELMAP_UPDATE } from './records.ts'

export const identifyRelmap = (info: number): string | undefined =>
  (info & 0xf0) === XLOG_RELMAP_UPDATE ? 'UPDATE' : undefined
