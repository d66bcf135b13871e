/**
 * The highest block of each relation fork that a subscription has seen, as block counts. Bounded: when too many forks
 * are known all are forgotten, which costs notes that repeat and nothing else.
 */
import type { RelFile } from '@understory/postgres/wal'

const FORKS_COUNT_MAX = 100_000

type Forks = Map<number, number>

/** Relation and fork as one number below 2^34. */
const forkKey = (relNumber: number, fork: number): number => relNumber * 4 + fork

export class SizeNotes {
  /** By tablespace, then database. */
  readonly #databases = new Map<number, Map<number, Forks>>()
  #forksCount = 0
  // Neighbouring records are mostly of one database.
  #lastSpcOid = -1
  #lastDbOid = -1
  #last: Forks = new Map()

  #forks(spcOid: number, dbOid: number): Forks {
    if (spcOid === this.#lastSpcOid && dbOid === this.#lastDbOid) return this.#last
    let databases = this.#databases.get(spcOid)
    if (databases === undefined) this.#databases.set(spcOid, (databases = new Map()))
    let forks = databases.get(dbOid)
    if (forks === undefined) databases.set(dbOid, (forks = new Map()))
    this.#lastSpcOid = spcOid
    this.#lastDbOid = dbOid
    this.#last = forks
    return forks
  }

  /** True if the fork was not known to have so many blocks; now it is. */
  raise(rel: RelFile, fork: number, blocks: number): boolean {
    const forks = this.#forks(rel.spcOid, rel.dbOid)
    const key = forkKey(rel.relNumber, fork)
    const known = forks.get(key)
    if (known !== undefined && known >= blocks) return false
    if (known === undefined && ++this.#forksCount > FORKS_COUNT_MAX) {
      this.clear()
      this.raise(rel, fork, blocks)
      return true
    }
    forks.set(key, blocks)
    return true
  }

  truncate(rel: RelFile, fork: number, blocks: number): void {
    const forks = this.#forks(rel.spcOid, rel.dbOid)
    const key = forkKey(rel.relNumber, fork)
    const known = forks.get(key)
    if (known !== undefined && known > blocks) forks.set(key, blocks)
  }

  forget(rel: RelFile, fork: number): void {
    if (this.#forks(rel.spcOid, rel.dbOid).delete(forkKey(rel.relNumber, fork))) this.#forksCount--
  }

  forgetRelation(rel: RelFile): void {
    for (let fork = 0; fork < 4; fork++) this.forget(rel, fork)
  }

  forgetDatabase(spcOid: number, dbOid: number): void {
    this.#forksCount -= this.#forks(spcOid, dbOid).size
    this.#databases.get(spcOid)?.delete(dbOid)
    this.#lastSpcOid = -1
  }

  clear(): void {
    this.#databases.clear()
    this.#forksCount = 0
    this.#lastSpcOid = -1
  }
}
