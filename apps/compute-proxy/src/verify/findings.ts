/** Counts what was compared, what was left out and why, and keeps the first differences. */
import type { Lsn } from '@understory/base'
import { lsnToBigint } from '@understory/base'
import type { VerifyResult } from '@understory/rpc'

const DIFFERENCES_KEPT_COUNT = 20

/** Why something is not compared. */
export type Exclusion =
  | 'free-space map'
  | 'temporary'
  | 'unlogged'
  | 'file made by Postgres for itself'
  | 'zero page'
  | 'sequence value'
  | 'lsn moved by a hint bit'
  | 'init fork of a bloom index, which Postgres does not log'
  | 'empty SP-GiST page that Postgres initialized without a record'
  | 'visibility bits that CREATE DATABASE does not log'
  | 'dropped during the run'

export class Findings {
  pagesIndependent = 0
  pagesFromStorage = 0
  visibilityMapPages = 0
  slruPages = 0
  otherFiles = 0
  readonly #excluded = new Map<Exclusion, number>()
  readonly #differences: string[] = []
  #differing = 0

  exclude(reason: Exclusion, count = 1): void {
    if (count > 0) this.#excluded.set(reason, (this.#excluded.get(reason) ?? 0) + count)
  }

  differ(where: string, what: string): void {
    this.#differing++
    if (this.#differences.length < DIFFERENCES_KEPT_COUNT) this.#differences.push(`${where}: ${what}`)
  }

  get isClean(): boolean {
    return this.#differing === 0
  }

  add(other: Findings): void {
    this.pagesIndependent += other.pagesIndependent
    this.pagesFromStorage += other.pagesFromStorage
    this.visibilityMapPages += other.visibilityMapPages
    this.slruPages += other.slruPages
    this.otherFiles += other.otherFiles
    for (const [reason, count] of other.#excluded) this.exclude(reason, count)
    this.#differing += other.#differing
    this.#differences.push(...other.#differences.slice(0, DIFFERENCES_KEPT_COUNT - this.#differences.length))
  }

  result(barrierLsn: Lsn): VerifyResult {
    const excludedBy = Object.fromEntries(
      [...this.#excluded].map(([reason, count]) => [reason, BigInt(count)]),
    )
    return {
      pagesIndependent: BigInt(this.pagesIndependent),
      pagesFromStorage: BigInt(this.pagesFromStorage),
      excluded: BigInt([...this.#excluded.values()].reduce((sum, count) => sum + count, 0)),
      excludedBy,
      differing: BigInt(this.#differing),
      differences: this.#differences,
      visibilityMapPages: BigInt(this.visibilityMapPages),
      slruPages: BigInt(this.slruPages),
      barrierLsn: lsnToBigint(barrierLsn),
      otherFiles: BigInt(this.otherFiles),
    }
  }
}

/** In words: where two byte strings part. Undefined if they are equal. */
export function describeDifference(primary: Uint8Array, storage: Uint8Array): string | undefined {
  if (Buffer.compare(primary, storage) === 0) return undefined
  const found = primary.findIndex((byte, i) => byte !== storage[i])
  const at = found < 0 ? primary.length : found
  const hex = (byte: number | undefined): string =>
    byte === undefined ? 'nothing' : `0x${byte.toString(16).padStart(2, '0')}`
  return `byte ${at} is ${hex(primary[at])} on the primary and ${hex(storage[at])} in storage`
}
