/** Source: utils/cache/relmapper.c, relmap_redo (17.11, 18.6). */
import { fail } from '@understory/base'
import { RM_RELMAP_ID } from '../../wal/constants.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { checkMainData } from '../record-check.ts'
import type { EffectSink, Rmgr } from '../types.ts'
import { identifyRelmap } from './describe.ts'
import { xl_relmap_update } from './records.ts'

/** sizeof(RelMapFile) of 16 to 18: magic, count, 64 mappings, CRC. */
export const RELATION_MAP_BYTES = 524

function effects(record: DecodedRecord, sink: EffectSink): void {
  const { view, mainDataOffset: at } = record
  checkMainData(record, xl_relmap_update.SIZE + RELATION_MAP_BYTES)
  const length = xl_relmap_update.nbytes.get(view, at)
  if (length !== RELATION_MAP_BYTES) throw fail('bad_wal', `wrong size ${length} in relmap update record`)
  const contentAt = at + xl_relmap_update.SIZE
  sink.relationMap(
    xl_relmap_update.dbid.get(view, at),
    xl_relmap_update.tsid.get(view, at),
    record.bytes.subarray(contentAt, contentAt + length),
  )
}

export const relmapRmgr: Rmgr = { id: RM_RELMAP_ID, name: 'RelMap', identify: identifyRelmap, effects }
