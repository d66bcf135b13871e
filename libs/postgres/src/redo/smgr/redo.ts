/**
 * A truncation cuts the main fork, and the maps to what its blocks still need. The map page that holds the first block
 * gone stays; `visibilityClear` of that block says that its tail is to be cleared, see `redoVisibilityClear`. The same
 * page of the free-space map is left alone: it is a hint, and its size alone is cut.
 *
 * Source: catalog/storage.c smgr_redo, access/heap/visibilitymap.c visibilitymap_prepare_truncate,
 * storage/freespace/freespace.c FreeSpaceMapPrepareTruncateRel (17.11, 18.6).
 */
import { HEAPBLOCKS_PER_VM_PAGE, VISIBILITYMAP_VALID_BITS } from '../../page/visibility-map.ts'
import { RM_SMGR_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import { FORK_FSM, FORK_MAIN, FORK_VM } from '../../wal/record.ts'
import type { DecodedRecord, RelFile } from '../../wal/record.ts'
import { checkMainData } from '../record-check.ts'
import type { EffectSink, Rmgr } from '../types.ts'
import { identifySmgr } from './describe.ts'
import {
  SMGR_TRUNCATE_FSM,
  SMGR_TRUNCATE_HEAP,
  SMGR_TRUNCATE_VM,
  XLOG_SMGR_CREATE,
  xl_smgr_create,
  xl_smgr_truncate,
} from './records.ts'

/** Of 8 KiB pages: SlotsPerFSMPage = LeafNodesPerPage (freespace.c, fsm_internals.h). */
const FSM_SLOTS_PER_PAGE = 8192 - 24 - 4 - (8192 / 2 - 1)

/** Where the free-space map is cut: the blocks of a tree of three levels, up to the page that `heapBlocks` needs. */
export function freeSpaceMapBlocks(heapBlocks: number): number {
  // fsm_logical_to_physical of the leaf page, all its upper pages included; one more if a part of it is still needed.
  const leaf = Math.floor(heapBlocks / FSM_SLOTS_PER_PAGE)
  const physical =
    leaf +
    Math.floor(leaf / FSM_SLOTS_PER_PAGE) +
    1 +
    Math.floor(leaf / (FSM_SLOTS_PER_PAGE * FSM_SLOTS_PER_PAGE)) +
    1
  return heapBlocks % FSM_SLOTS_PER_PAGE === 0 ? physical : physical + 1
}

const rel: RelFile = { spcOid: 0, dbOid: 0, relNumber: 0 }

function effects(record: DecodedRecord, sink: EffectSink): void {
  const { view, mainDataOffset: at } = record
  if ((record.info & XLR_RMGR_INFO_MASK) === XLOG_SMGR_CREATE) {
    checkMainData(record, xl_smgr_create.SIZE)
    rel.spcOid = xl_smgr_create.spcOid.get(view, at)
    rel.dbOid = xl_smgr_create.dbOid.get(view, at)
    rel.relNumber = xl_smgr_create.relNumber.get(view, at)
    sink.relationCreate(rel, xl_smgr_create.forkNum.get(view, at))
    return
  }
  checkMainData(record, xl_smgr_truncate.SIZE)
  const blocks = xl_smgr_truncate.blkno.get(view, at)
  const flags = xl_smgr_truncate.flags.get(view, at)
  rel.spcOid = xl_smgr_truncate.spcOid.get(view, at)
  rel.dbOid = xl_smgr_truncate.dbOid.get(view, at)
  rel.relNumber = xl_smgr_truncate.relNumber.get(view, at)
  if ((flags & SMGR_TRUNCATE_FSM) !== 0) sink.relationTruncate(rel, FORK_FSM, freeSpaceMapBlocks(blocks))
  if ((flags & SMGR_TRUNCATE_VM) !== 0) {
    if (blocks % HEAPBLOCKS_PER_VM_PAGE !== 0) sink.visibilityClear(rel, blocks, VISIBILITYMAP_VALID_BITS)
    sink.relationTruncate(rel, FORK_VM, Math.ceil(blocks / HEAPBLOCKS_PER_VM_PAGE))
  }
  if ((flags & SMGR_TRUNCATE_HEAP) !== 0) sink.relationTruncate(rel, FORK_MAIN, blocks)
}

export const smgrRmgr: Rmgr = { id: RM_SMGR_ID, name: 'Storage', identify: identifySmgr, effects }
