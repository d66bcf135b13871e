/**
 * Resource managers whose records can be named but not redone. A block of theirs can only be had from an image in the
 * WAL; any other use is refused `unknown_wal`, never skipped.
 *
 * Source: access/rmgrdesc/{gin,spg}desc.c (16, 17, 18 alike).
 */
import { RM_GIN_ID, RM_SPGIST_ID, XLR_RMGR_INFO_MASK } from '../wal/constants.ts'
import type { Rmgr } from './types.ts'

function unsupported(id: number, name: string, names: Readonly<Record<number, string>>): Rmgr {
  return { id, name, identify: (info) => names[info & XLR_RMGR_INFO_MASK] }
}

export const ginRmgr = unsupported(RM_GIN_ID, 'Gin', {
  0x10: 'CREATE_PTREE', 0x20: 'INSERT', 0x30: 'SPLIT', 0x40: 'VACUUM_PAGE', 0x50: 'DELETE_PAGE',
  0x60: 'UPDATE_META_PAGE', 0x70: 'INSERT_LISTPAGE', 0x80: 'DELETE_LISTPAGE', 0x90: 'VACUUM_DATA_LEAF_PAGE',
})
export const spgistRmgr = unsupported(RM_SPGIST_ID, 'SPGist', {
  0x10: 'ADD_LEAF', 0x20: 'MOVE_LEAFS', 0x30: 'ADD_NODE', 0x40: 'SPLIT_TUPLE', 0x50: 'PICKSPLIT', 0x60: 'VACUUM_LEAF',
  0x70: 'VACUUM_ROOT', 0x80: 'VACUUM_REDIRECT',
})
