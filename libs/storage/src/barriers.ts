/**
 * Barriers: truncation, removal and creation of relations and databases. Reading (key, lsn) never looks below the
 * newest barrier at or before `lsn` that covers the key; what has nothing at or above it is zeros.
 *
 * A value at a barrier's own LSN is above it: a record that makes a barrier changes no block, except a database's
 * copy, whose pages come with the barrier. Barriers are values of KEY_BARRIER as well, so that layers carry them:
 *
 *   fork of a relation   (spcOid, dbOid, rel, fork)       value u32 le: the first block that is covered
 *   whole relation       (spcOid, dbOid, rel, FORK_ALL)   0
 *   database             (spcOid, dbOid, 0, FORK_ALL)     0
 */
import type { Lsn } from '@understory/base'
import { LSN_ZERO } from '@understory/base'
import { KEY_BARRIER, KEY_RELATION_BLOCK, KEY_RELATION_SIZE } from './key.ts'
import type { Key } from './key.ts'

export const FORK_ALL = 255

interface Barrier {
  readonly at: Lsn
  readonly fromBlock: number
}

export const barrierKey = (spcOid: number, dbOid: number, rel: number, fork: number): Key => ({
  keyClass: KEY_BARRIER,
  spcOid,
  dbOid,
  rel,
  fork,
  block: 0,
})

export class Barriers {
  /** Oldest first, by spcOid/dbOid/rel/fork. */
  readonly #byFork = new Map<string, Barrier[]>()

  /** Later barriers must not be older than earlier ones of the same key. */
  add(key: Key, at: Lsn, fromBlock: number): void {
    const name = `${key.spcOid}/${key.dbOid}/${key.rel}/${key.fork}`
    const list = this.#byFork.get(name)
    if (list === undefined) this.#byFork.set(name, [{ at, fromBlock }])
    else list.push({ at, fromBlock })
  }

  /** The LSN of the newest barrier at or before `at` that covers the key, or 0. Sizes are covered by their fork's. */
  newest(key: Key, at: Lsn): Lsn {
    if (key.keyClass !== KEY_RELATION_BLOCK && key.keyClass !== KEY_RELATION_SIZE) return LSN_ZERO
    if (this.#byFork.size === 0) return LSN_ZERO
    const { spcOid, dbOid, rel, fork, block } = key
    let newest = this.#newestOf(`${spcOid}/${dbOid}/${rel}/${FORK_ALL}`, at, 0)
    const ofDatabase = this.#newestOf(`${spcOid}/${dbOid}/0/${FORK_ALL}`, at, 0)
    if (ofDatabase > newest) newest = ofDatabase
    if (key.keyClass === KEY_RELATION_SIZE) return newest
    const ofFork = this.#newestOf(`${spcOid}/${dbOid}/${rel}/${fork}`, at, block)
    return ofFork > newest ? ofFork : newest
  }

  #newestOf(name: string, at: Lsn, block: number): Lsn {
    const list = this.#byFork.get(name)
    if (list === undefined) return LSN_ZERO
    for (let i = list.length - 1; i >= 0; i--) {
      const barrier = list[i] as Barrier
      if (barrier.at <= at && barrier.fromBlock <= block) return barrier.at
    }
    return LSN_ZERO
  }
}
