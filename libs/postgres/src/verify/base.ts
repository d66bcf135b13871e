/** The files that verification of redo starts from. */
import type { RelFile } from '../wal/record.ts'
import type { SlruKind } from '../redo/types.ts'

/** Where pages come from that no record has made yet: files that were stopped cleanly before the first record. */
export interface VerifyBase {
  /** The block, or undefined if the file does not reach that far. */
  readBlock(rel: RelFile, fork: number, block: number): Uint8Array | undefined
  readSlruPage(kind: SlruKind, page: number): Uint8Array | undefined
  /** The pages that the SLRU has. */
  slruPages(kind: SlruKind): readonly number[]
  /** pg_filenode.map of a database; dbOid 0 is global/. */
  readRelationMap(dbOid: number, spcOid: number): Uint8Array | undefined
}
