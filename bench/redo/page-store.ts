/**
 * The pages that redo works on: those of the data directory, read when they are first touched, and new ones as zeros.
 * Many share a buffer, as in a cache of pages: one buffer each would cost more than the redo of a record.
 */
import { closeSync, existsSync, fstatSync, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { pageOf } from '@understory/postgres/redo'
import type { Page } from '@understory/postgres/redo'
import { PAGE_SIZE } from '@understory/postgres/wal'
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
  readonly #slabs: Slabs
  readonly pages: (Page | undefined)[] = []
  readonly #file: number | undefined
  readonly #blocks: number

  constructor(path: string, slabs: Slabs) {
    this.#slabs = slabs
    this.#file = existsSync(path) ? openSync(path, 'r') : undefined
    this.#blocks = this.#file === undefined ? 0 : fstatSync(this.#file).size / PAGE_SIZE
  }

  /** Tables of the benchmarks stay below a segment of 1 GiB. */
  load(block: number): Page {
    const page = this.#slabs.take()
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
  readonly #slabs = new Slabs()
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

  close(): void {
    for (const fork of this.#forks.values()) fork.close()
  }
}
