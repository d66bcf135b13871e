/** Owns the relation pages and maps that redo has changed, over a base that may be cut off or belong to a copy. */
import { LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import { PAGE_SIZE, pageOf } from '../page/bufpage.ts'
import type { Page } from '../page/bufpage.ts'
import type { RelFile } from '../wal/record.ts'
import type { VerifyBase } from './base.ts'

export interface RedonePage {
  readonly page: Page
  /** The record that last touched it. */
  recordLsn: Lsn
  type: string
  /** An FPI_FOR_HINT without an image moved the primary's LSN, and nothing else, to here; redo never learns of it. */
  hintLsn: Lsn
  /** A map page that an image left without the bits that it had. */
  isHoled: boolean
}

interface DatabaseDirectory {
  readonly spcOid: number
  readonly dbOid: number
}

const relationKey = (rel: RelFile): string => `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}`
const forkKey = (rel: RelFile, fork: number): string => `${relationKey(rel)}/${fork}`
export const blockName = (rel: RelFile, fork: number, block: number): string =>
  `${forkKey(rel, fork)} block ${block}`

export class RedonePages {
  readonly #base: VerifyBase
  /** By fork, then by block. */
  readonly #pages = new Map<string, Map<number, RedonePage>>()
  /** From which block on the base says nothing any more, because the fork was cut or made again. */
  readonly #baseBlocks = new Map<string, number>()
  /** Database directories that are copies: the base has their blocks under the source. */
  readonly #copiedFrom = new Map<string, DatabaseDirectory>()

  /** Contents of pg_filenode.map that the WAL says, by `tablespace/database`. */
  readonly #maps = new Map<string, Uint8Array>()

  constructor(base: VerifyBase) {
    this.#base = base
  }

  /** The page as redo has it; undefined if no record touched it. */
  find(rel: RelFile, fork: number, block: number): RedonePage | undefined {
    return this.#pages.get(forkKey(rel, fork))?.get(block)
  }
  /** The redone pages of a fork, by block. */
  ofFork(rel: RelFile, fork: number): ReadonlyMap<number, RedonePage> {
    return this.#pages.get(forkKey(rel, fork)) ?? new Map()
  }
  /** Every fork that has redone pages. */
  forks(): { readonly rel: RelFile; readonly fork: number }[] {
    return [...this.#pages.keys()].map((key) => {
      const [spcOid, dbOid, relNumber, fork] = key.split('/').map(Number) as [number, number, number, number]
      return { rel: { spcOid, dbOid, relNumber }, fork }
    })
  }

  putRelationMap({ spcOid, dbOid }: DatabaseDirectory, content: Uint8Array): void {
    this.#maps.set(`${spcOid}/${dbOid}`, content)
  }
  /** pg_filenode.map of a database, from the base if no record says it; dbOid 0 is global/. */
  relationMap(database: DatabaseDirectory): Uint8Array | undefined {
    const { spcOid, dbOid } = this.#sourceOf(database)
    return (
      this.#maps.get(`${database.spcOid}/${database.dbOid}`) ??
      this.#maps.get(`${spcOid}/${dbOid}`) ??
      this.#base.readRelationMap(dbOid, spcOid)
    )
  }

  /** The directory under which the base has a database: its own, or the one that it was copied from. */
  #sourceOf({ spcOid, dbOid }: DatabaseDirectory): DatabaseDirectory {
    return this.#copiedFrom.get(`${spcOid}/${dbOid}`) ?? { spcOid, dbOid }
  }

  /** The block as the base has it; undefined where it has none, or none any more. */
  readBase(rel: RelFile, fork: number, block: number): Uint8Array | undefined {
    if (block >= (this.#baseBlocks.get(forkKey(rel, fork)) ?? Infinity)) return undefined
    const { spcOid, dbOid } = this.#sourceOf(rel)
    return this.#base.readBlock({ spcOid, dbOid, relNumber: rel.relNumber }, fork, block)
  }

  #forkPages(rel: RelFile, fork: number): Map<number, RedonePage> {
    const key = forkKey(rel, fork)
    let pages = this.#pages.get(key)
    if (pages === undefined) this.#pages.set(key, (pages = new Map()))
    return pages
  }

  /** The page, taken from the base where redo has not had it yet. */
  entry(rel: RelFile, fork: number, block: number): RedonePage {
    const pages = this.#forkPages(rel, fork)
    let entry = pages.get(block)
    if (entry === undefined) {
      const bytes = new Uint8Array(PAGE_SIZE)
      const base = this.readBase(rel, fork, block)
      if (base !== undefined) bytes.set(base)
      entry = { page: pageOf(bytes), recordLsn: LSN_ZERO, type: 'nothing', hintLsn: LSN_ZERO, isHoled: false }
      pages.set(block, entry)
    }
    return entry
  }

  /** Blocks from `blocks` on are gone, here and in the base. */
  cut(rel: RelFile, fork: number, blocks: number): void {
    const key = forkKey(rel, fork)
    this.#baseBlocks.set(key, Math.min(blocks, this.#baseBlocks.get(key) ?? Infinity))
    const pages = this.#pages.get(key)
    for (const block of pages?.keys() ?? []) if (block >= blocks) pages?.delete(block)
  }

  cutDatabase(spcOid: number, dbOid: number): void {
    for (const { rel, fork } of this.forks())
      if (rel.spcOid === spcOid && rel.dbOid === dbOid) this.cut(rel, fork, 0)
  }

  /** The target's files are those of the source as they are now. */
  copyDatabase(target: DatabaseDirectory, source: DatabaseDirectory): void {
    const { spcOid, dbOid } = target
    this.#copiedFrom.set(`${spcOid}/${dbOid}`, source)
    for (const { rel, fork } of this.forks()) {
      if (rel.spcOid !== source.spcOid || rel.dbOid !== source.dbOid) continue
      const copied = { spcOid, dbOid, relNumber: rel.relNumber }
      this.#baseBlocks.set(forkKey(copied, fork), this.#baseBlocks.get(forkKey(rel, fork)) ?? Infinity)
      const copy = this.#forkPages(copied, fork)
      for (const [block, entry] of this.#forkPages(rel, fork)) {
        copy.set(block, { ...entry, page: pageOf(entry.page.bytes.slice()) })
      }
    }
  }
}
