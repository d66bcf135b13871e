/** Owns what differs between redone state and the server's: compares, counts, and keeps the first differences. */
import { isErrorCode } from '@understory/base'
import { PAGE_SIZE, pageOf } from '../page/bufpage.ts'
import type { Page } from '../page/bufpage.ts'
import { maskRelationPage } from '../page/masks.ts'
import { pageKindOf } from '../page/page-kind.ts'
import { FORK_VM } from '../wal/record.ts'
import type { RelFile } from '../wal/record.ts'
import { blockName } from './redone-pages.ts'

export interface Difference {
  readonly what: string
  readonly where: string
}

/** Where a relation page is. */
export interface Place {
  readonly rel: RelFile
  readonly fork: number
  readonly block: number
}

const KEPT_COUNT = 50

export class Differences {
  /** The first of them. */
  readonly kept: Difference[] = []
  readonly #actual = pageOf(new Uint8Array(PAGE_SIZE))
  #count = 0

  /** All of them. */
  get count(): number {
    return this.#count
  }

  add(where: string, what: string): void {
    this.#count++
    if (this.kept.length < KEPT_COUNT) this.kept.push({ where, what })
  }

  /** Nothing is left out. */
  compareBytes(where: string, redone: Uint8Array, file: Uint8Array): void {
    const at = firstDifference(redone, file)
    if (at < 0) return
    const [is, ought] = [`${redone[at]}`, `${file[at]} of ${file.length}`]
    this.add(where, `the file: byte ${at} of ${redone.length} is ${is}, not ${ought}`)
  }

  /** `expected` holds what the page should be; it is masked here. */
  comparePage(expected: Page, page: Page, place: Place, what: string): void {
    const { rel, fork, block } = place
    const actual = this.#actual
    actual.bytes.set(page.bytes)
    if (fork === FORK_VM) {
      expected.bytes.fill(0, 0, 10)
      actual.bytes.fill(0, 0, 10)
    } else {
      const kind = pageKindOf(expected)
      try {
        maskRelationPage(kind, expected, block)
        maskRelationPage(kind, actual, block)
      } catch (error) {
        if (!isErrorCode(error, 'bad_page')) throw error
        this.add(blockName(rel, fork, block), `${what}: ${error.message}`)
        return
      }
    }
    const at = firstDifference(expected.bytes, actual.bytes)
    if (at < 0) return
    const text = (bytes: Uint8Array): string => Buffer.from(bytes.subarray(at, at + 16)).toString('hex')
    this.add(
      blockName(rel, fork, block),
      `${what}: byte ${at} is ${text(actual.bytes)}…, not ${text(expected.bytes)}…`,
    )
  }
}

function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (Buffer.compare(a, b) === 0) return -1
  const at = a.findIndex((byte, i) => byte !== b[i])
  return at < 0 ? a.length : at
}
