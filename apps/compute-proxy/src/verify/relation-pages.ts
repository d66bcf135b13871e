/**
 * Compares relation pages while the primary continues.
 *
 * After a CHECKPOINT with redo point R, what a file has of a page with pd_lsn L is what the page was from L (or, if L
 * is older, at R) on: so storage must give the same at the later of the two. A page that does not agree is looked at
 * again after another CHECKPOINT, since it may have been read half-written, or cut and made again since then; a page
 * that still does not agree differs.
 */
import { LSN_ZERO, formatLsn, isErrorCode, maxLsn, parseLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { openFileWithin, throwIfCancelled } from '@understory/env'
import { RELATION_SEGMENT_BLOCKS, parseControlFile } from '@understory/postgres/cluster'
import {
  PAGE_SIZE,
  getPageLsn,
  hasGistBuildLsn,
  isPageNew,
  isReinitializedSpgistPage,
  isUnloggedBloomMetapage,
  isZeroPage,
  maskRelationPage,
  pageKindOf,
  pageOf,
} from '@understory/postgres/page'
import { FORK_INIT } from '@understory/postgres/wal'
import { blockKey } from '@understory/storage'
import type pg from 'pg'
import type { Catalog } from './catalog.ts'
import { describeDifference } from './findings.ts'
import type { Exclusion, Findings } from './findings.ts'
import type { VerifyOptions } from './options.ts'
import type { PageSource, StoredPage } from './page-source.ts'
import type { RelationFile } from './relation-files.ts'

/** Pages read from a file and asked of storage at a time; so many such chunks are under way. */
const CHUNK_PAGES = 128
const CHUNKS_UNDER_WAY = 6
/** Looks at a page that does not agree, each after a CHECKPOINT of its own. */
const LOOKS_MAX = 4

interface FilePage {
  readonly file: RelationFile
  readonly block: number
  readonly bytes: Uint8Array
}

/** A page that did not agree, and why. */
interface Suspect {
  readonly file: RelationFile
  readonly block: number
  readonly reason: string
}

type Verdict =
  | { readonly kind: 'equal'; readonly exclusion?: Exclusion }
  | { readonly kind: 'excluded'; readonly exclusion: Exclusion }
  | { readonly kind: 'differs'; readonly reason: string }

export interface PrimaryFacts {
  /** pd_lsn of some pages moves by hint bits alone, of which WAL says nothing. */
  readonly movesLsnByHints: boolean
}

export async function compareRelationPages(
  options: VerifyOptions,
  files: readonly RelationFile[],
  catalog: Catalog,
  pages: PageSource,
  client: pg.Client,
  facts: PrimaryFacts,
  findings: Findings,
): Promise<void> {
  const comparer = new Comparer(options, catalog, pages, client, facts, findings)
  await comparer.run(files)
}

class Comparer {
  readonly #options: VerifyOptions
  readonly #catalog: Catalog
  readonly #pages: PageSource
  readonly #client: pg.Client
  readonly #facts: PrimaryFacts
  readonly #findings: Findings
  /** Redo point of the last CHECKPOINT. */
  #redoLsn = 0 as Lsn
  /** The end of WAL, as far as it was asked for. */
  #insertLsn = 0 as Lsn
  #done = 0
  #total = 0

  constructor(
    options: VerifyOptions,
    catalog: Catalog,
    pages: PageSource,
    client: pg.Client,
    facts: PrimaryFacts,
    findings: Findings,
  ) {
    this.#options = options
    this.#catalog = catalog
    this.#pages = pages
    this.#client = client
    this.#facts = facts
    this.#findings = findings
  }

  async run(files: readonly RelationFile[]): Promise<void> {
    this.#total = files.reduce((sum, { sizeBytes }) => sum + sizeBytes / PAGE_SIZE, 0)
    await this.#checkpoint()
    let suspects: Suspect[] = []
    await inParallel(CHUNKS_UNDER_WAY, this.#chunks(files), async (chunk) => {
      suspects.push(...(await this.#compare(chunk)))
      this.#progress(chunk.length)
    })
    for (let look = 2; look <= LOOKS_MAX && suspects.length > 0; look++) {
      await this.#checkpoint()
      const again = suspects
      suspects = []
      await inParallel(CHUNKS_UNDER_WAY, this.#suspectChunks(again), async (chunk) => {
        suspects.push(...(await this.#compare(chunk)))
      })
    }
    for (const { file, block, reason } of suspects) this.#findings.differ(this.#where(file, block), reason)
  }

  #progress(pages: number): void {
    this.#done += pages
    this.#options.onProgress?.(this.#done, Math.max(this.#done, this.#total))
  }

  #where(file: RelationFile, block: number): string {
    const fork = file.fork === 0 ? '' : ' init fork'
    return `${this.#catalog.nameOf(file)}${fork} block ${block}`
  }

  async #checkpoint(): Promise<void> {
    await this.#client.query('checkpoint')
    const { rows } = await this.#client.query<{ redo: string }>(
      'select redo_lsn::text as redo from pg_control_checkpoint()',
    )
    this.#redoLsn = parseLsn((rows[0] as { redo: string }).redo)
    await this.#askInsertLsn()
    await this.#pages.waitFor(this.#redoLsn)
  }

  async #askInsertLsn(): Promise<void> {
    const { rows } = await this.#client.query<{ at: string }>(
      'select pg_current_wal_insert_lsn()::text as at',
    )
    this.#insertLsn = parseLsn((rows[0] as { at: string }).at)
  }

  async *#chunks(files: readonly RelationFile[]): AsyncGenerator<FilePage[], void, void> {
    let chunk: FilePage[] = []
    for (const file of files) {
      throwIfCancelled(this.#options.signal)
      await using handle = await openFileWithin(this.#options.dataDirectory, file.path)
      if (handle === undefined) {
        this.#findings.exclude('dropped during the run', file.sizeBytes / PAGE_SIZE)
        continue
      }
      for (let first = 0; first * PAGE_SIZE < file.sizeBytes;) {
        const count = Math.min(CHUNK_PAGES - chunk.length, file.sizeBytes / PAGE_SIZE - first)
        const bytes = Buffer.allocUnsafeSlow(count * PAGE_SIZE)
        const { bytesRead } = await handle.read(bytes, 0, bytes.length, first * PAGE_SIZE)
        const block = file.segment * RELATION_SEGMENT_BLOCKS + first
        for (let i = 0; (i + 1) * PAGE_SIZE <= bytesRead; i++) {
          chunk.push({ file, block: block + i, bytes: bytes.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE) })
        }
        if (chunk.length >= CHUNK_PAGES) {
          yield chunk
          chunk = []
        }
        // It was cut since then: the rest is not there any more.
        if (bytesRead < bytes.length) break
        first += count
      }
    }
    if (chunk.length > 0) yield chunk
  }

  async *#suspectChunks(suspects: readonly Suspect[]): AsyncGenerator<FilePage[], void, void> {
    let chunk: FilePage[] = []
    for (const { file, block } of suspects) {
      throwIfCancelled(this.#options.signal)
      await using handle = await openFileWithin(this.#options.dataDirectory, file.path)
      const bytes = Buffer.allocUnsafeSlow(PAGE_SIZE)
      const offset = (block % RELATION_SEGMENT_BLOCKS) * PAGE_SIZE
      const read = await handle?.read(bytes, 0, PAGE_SIZE, offset)
      if (read?.bytesRead !== PAGE_SIZE) {
        this.#findings.exclude('dropped during the run')
        continue
      }
      chunk.push({ file, block, bytes })
      if (chunk.length >= CHUNK_PAGES) {
        yield chunk
        chunk = []
      }
    }
    if (chunk.length > 0) yield chunk
  }

  /** Counts the pages that agree; returns the others. */
  async #compare(chunk: readonly FilePage[]): Promise<Suspect[]> {
    const lsns = chunk.map(({ bytes }) => lsnOfPage(bytes))
    if (lsns.some((at) => at !== undefined && at > this.#insertLsn)) await this.#askInsertLsn()
    // A page with an impossible LSN is asked for at the redo point, and reported.
    const isPossible = (at: Lsn | undefined): at is Lsn => at !== undefined && at <= this.#insertLsn
    const stored = await this.#pages.read(
      chunk.map(({ file, block }, i) => {
        const at = lsns[i]
        const key = blockKey(file.spcOid, file.dbOid, file.relNumber, file.fork, block)
        return { key, lsn: isPossible(at) ? maxLsn(at, this.#redoLsn) : this.#redoLsn }
      }),
    )
    const suspects: Suspect[] = []
    for (const [i, { file, block, bytes }] of chunk.entries()) {
      const at = lsns[i]
      if (!isPossible(at)) {
        suspects.push({ file, block, reason: "the LSN of the primary's page lies beyond its WAL" })
        continue
      }
      const verdict = this.#judge(file, block, bytes, at, stored[i] as StoredPage)
      if (verdict.kind === 'differs') {
        suspects.push({ file, block, reason: verdict.reason })
        continue
      }
      this.#count(verdict, at)
    }
    return suspects
  }

  #count(verdict: Verdict & { readonly kind: 'equal' | 'excluded' }, at: Lsn): void {
    const findings = this.#findings
    if (verdict.exclusion !== undefined) findings.exclude(verdict.exclusion)
    if (verdict.kind === 'excluded') return
    const { startedAtLsn } = this.#options
    if (startedAtLsn === undefined || at > startedAtLsn) findings.pagesIndependent++
    else findings.pagesFromStorage++
  }

  #judge(file: RelationFile, block: number, primary: Uint8Array, at: Lsn, stored: StoredPage): Verdict {
    const differs = (reason: string): Verdict => ({ kind: 'differs', reason })
    if (stored.kind === 'unreadable') return differs(`storage cannot give it: ${stored.reason}`)
    const isStoredEmpty = stored.kind === 'absent' || isZeroPage(stored.bytes)
    if (isZeroPage(primary)) {
      return isStoredEmpty
        ? { kind: 'excluded', exclusion: 'zero page' }
        : differs(
            `zeros on the primary, but storage has a page of ${formatLsn(getPageLsn(pageOf(stored.bytes)))}`,
          )
    }
    const unlogged = this.#unloggedChange(file, block, primary, at, isStoredEmpty ? undefined : stored.bytes)
    if (unlogged !== undefined) return { kind: 'excluded', exclusion: unlogged }
    if (isStoredEmpty) return differs(`the primary has a page of ${formatLsn(at)}, storage has none`)
    const { bytes } = stored
    if (Buffer.compare(primary, bytes) === 0) return { kind: 'equal' }
    const storedLsn = getPageLsn(pageOf(bytes))
    const isHint = this.#facts.movesLsnByHints && storedLsn < at
    if (storedLsn !== at && !isHint && !hasGistBuildLsn(pageOf(primary))) {
      return differs(`pd_lsn is ${formatLsn(at)} on the primary and ${formatLsn(storedLsn)} in storage`)
    }
    const page = pageOf(primary)
    const kind = this.#catalog.kindOf(file) ?? (isPageNew(page) ? 'generic' : pageKindOf(page))
    // WAL runs 32 values ahead of a sequence's page.
    if (kind === 'sequence') return { kind: 'equal', exclusion: 'sequence value' }
    const masked = [Uint8Array.from(primary), Uint8Array.from(bytes)] as const
    try {
      for (const copy of masked) maskRelationPage(kind, pageOf(copy), block)
    } catch (error) {
      if (!isErrorCode(error, 'bad_page')) throw error
      return differs(`at ${formatLsn(at)}: ${error.message}`)
    }
    const difference = describeDifference(...masked)
    if (difference !== undefined) return differs(`at ${formatLsn(at)}: ${difference}`)
    return isHint ? { kind: 'equal', exclusion: 'lsn moved by a hint bit' } : { kind: 'equal' }
  }

  /** Why no record made the primary's page, if that is so. A page that Postgres does not log keeps pd_lsn 0. */
  #unloggedChange(
    file: RelationFile,
    block: number,
    primary: Uint8Array,
    at: Lsn,
    stored: Uint8Array | undefined,
  ): Exclusion | undefined {
    if (at !== LSN_ZERO) return undefined
    if (file.fork === FORK_INIT) {
      const options = this.#catalog.bloomOptionsOf(file)
      const isBloom = options !== undefined && block === 0 && isUnloggedBloomMetapage(primary, options)
      return isBloom && stored === undefined
        ? 'init fork of a bloom index, which Postgres does not log'
        : undefined
    }
    return stored !== undefined && isReinitializedSpgistPage(primary, stored)
      ? 'empty SP-GiST page that Postgres initialized without a record'
      : undefined
  }
}

/** Undefined for one that no WAL can have. */
function lsnOfPage(bytes: Uint8Array): Lsn | undefined {
  try {
    return getPageLsn(pageOf(bytes))
  } catch (error) {
    if (isErrorCode(error, 'bad_page')) return undefined
    throw error
  }
}

/** Hands out the items to at most `count` pieces of work at a time. */
async function inParallel<T>(
  count: number,
  items: AsyncGenerator<T, void, void>,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let turn: Promise<unknown> = Promise.resolve()
  const nextItem = (): Promise<IteratorResult<T, void>> => {
    const next = turn.then(() => items.next())
    turn = next.catch(() => undefined)
    return next
  }
  const worker = async (): Promise<void> => {
    for (let item = await nextItem(); item.done !== true; item = await nextItem()) await work(item.value)
  }
  try {
    await Promise.all(Array.from({ length: count }, worker))
  } finally {
    // After a failure: closes the file that it has open.
    await items.return()
  }
}

export const factsOfControl = (controlFile: Uint8Array): PrimaryFacts => {
  const { dataChecksums, walLogHints } = parseControlFile(controlFile)
  return { movesLsnByHints: dataChecksums || walLogHints }
}
