/** The pages that redo works on: those of the data directory, read when they are first touched, and new ones as zeros. */
import { closeSync, existsSync, fstatSync, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { pageOf } from '@understory/postgres/redo'
import type { Page } from '@understory/postgres/redo'
import { PAGE_SIZE } from '@understory/postgres/wal'
import type { RelFile } from '@understory/postgres/wal'

const FORKS = ['', '_fsm', '_vm', '_init']
const GLOBALTABLESPACE_OID = 1664

class Fork {
  readonly pages: (Page | undefined)[] = []
  readonly #file: number | undefined
  readonly #blocks: number

  constructor(path: string) {
    this.#file = existsSync(path) ? openSync(path, 'r') : undefined
    this.#blocks = this.#file === undefined ? 0 : fstatSync(this.#file).size / PAGE_SIZE
  }

  /** Tables of the benchmarks stay below a segment of 1 GiB. */
  load(block: number): Page {
    const page = pageOf(new Uint8Array(PAGE_SIZE))
    if (this.#file !== undefined && block < this.#blocks) {
      readSync(this.#file, page.bytes, 0, PAGE_SIZE, block * PAGE_SIZE)
    }
    this.pages[block] = page
    return page
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file)
  }
}

export class PageStore {
  readonly #directory: string
  /** By relation number, then by fork: there is one database that is written to. */
  readonly #forks = new Map<number, Fork>()
  pagesCount = 0

  constructor(directory: string) {
    this.#directory = directory
  }

  page(rel: RelFile, fork: number, block: number): Page {
    const key = rel.relNumber * 4 + fork
    let pages = this.#forks.get(key)
    if (pages === undefined) {
      const name = `${rel.relNumber}${FORKS[fork]}`
      const folder = rel.spcOid === GLOBALTABLESPACE_OID ? 'global' : join('base', String(rel.dbOid))
      pages = new Fork(join(this.#directory, folder, name))
      this.#forks.set(key, pages)
    }
    const page = pages.pages[block]
    if (page !== undefined) return page
    this.pagesCount++
    return pages.load(block)
  }

  close(): void {
    for (const fork of this.#forks.values()) fork.close()
  }
}
