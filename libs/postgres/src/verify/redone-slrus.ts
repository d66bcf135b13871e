/** Owns the SLRU pages that redo has changed or removed, over a base. */
import { PAGE_SIZE, pageOf } from '../page/bufpage.ts'
import type { Page } from '../page/bufpage.ts'
import type { RemovedPages } from '../redo/slru-truncation.ts'
import type { SlruKind } from '../redo/types.ts'
import type { VerifyBase } from './base.ts'

export class RedoneSlrus {
  readonly #base: VerifyBase
  readonly #pages = new Map<string, Page>()
  /** The base no longer has these pages. */
  readonly #removed: { readonly kind: SlruKind; readonly isRemoved: RemovedPages }[] = []

  constructor(base: VerifyBase) {
    this.#base = base
  }

  /** The page as redo has it, from the base if no record touched it. */
  find(kind: SlruKind, page: number): Uint8Array | undefined {
    return this.#pages.get(`${kind} ${page}`)?.bytes ?? this.#readBase(kind, page)
  }
  /** The pages that redo changed and did not remove; those of the base are not among them. */
  changed(): { readonly kind: SlruKind; readonly page: number }[] {
    return [...this.#pages.keys()].map((key) => {
      const [kind, page] = key.split(' ') as [SlruKind, string]
      return { kind, page: Number(page) }
    })
  }

  /** The page to redo a record on, taken from the base where redo has not had it yet. */
  entry(kind: SlruKind, pageNumber: number): Page {
    const key = `${kind} ${pageNumber}`
    let page = this.#pages.get(key)
    if (page === undefined) {
      page = pageOf(new Uint8Array(PAGE_SIZE))
      page.bytes.set(this.#readBase(kind, pageNumber) ?? [])
      this.#pages.set(key, page)
    }
    return page
  }

  truncate(kind: SlruKind, isRemoved: RemovedPages): void {
    this.#removed.push({ kind, isRemoved })
    for (const { kind: other, page } of this.changed()) {
      if (other === kind && isRemoved(page)) this.#pages.delete(`${kind} ${page}`)
    }
  }

  #readBase(kind: SlruKind, page: number): Uint8Array | undefined {
    const isGone = this.#removed.some((removed) => removed.kind === kind && removed.isRemoved(page))
    return isGone ? undefined : this.#base.readSlruPage(kind, page)
  }
}
