/**
 * The pages that redo works on: those of the data directory, whose files are read when they are first touched, and new
 * ones as zeros. Many share a buffer, as in a cache of pages: one buffer each would cost more than the redo of a
 * record.
 */
import { PAGE_SIZE, pageOf } from '@understory/postgres/page'
import type { Page } from '@understory/postgres/page'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { RelFile } from '@understory/postgres/wal'

const FORKS = ['', '_fsm', '_vm', '_init']
const GLOBALTABLESPACE_OID = 1664

const SLAB_PAGES = 512

/** Pages of zeros. */
class Slabs {
  #slab = new Uint8Array(0)
  #used = 0

  take(): Page {
    if (this.#used === this.#slab.length) {
      this.#slab = new Uint8Array(SLAB_PAGES * PAGE_SIZE)
      this.#used = 0
    }
    this.#used += PAGE_SIZE
    return pageOf(this.#slab.subarray(this.#used - PAGE_SIZE, this.#used))
  }
}

class Fork {
  readonly pages: (Page | undefined)[] = []
  readonly #slabs: Slabs
  readonly #file: Uint8Array

  constructor(path: string, slabs: Slabs) {
    this.#slabs = slabs
    this.#file = existsSync(path) ? readFileSync(path) : new Uint8Array(0)
  }

  /** Tables of the benchmarks stay below a segment of 1 GiB. */
  load(block: number): Page {
    const at = block * PAGE_SIZE
    const isThere = at + PAGE_SIZE <= this.#file.length
    const page = isThere ? pageOf(this.#file.subarray(at, at + PAGE_SIZE)) : this.#slabs.take()
    this.pages[block] = page
    return page
  }
}

export class PageStore {
  readonly #directory: string
  readonly #slabs = new Slabs()
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
      pages = new Fork(join(this.#directory, folder, name), this.#slabs)
      this.#forks.set(key, pages)
    }
    const page = pages.pages[block]
    if (page !== undefined) return page
    this.pagesCount++
    return pages.load(block)
  }
}
