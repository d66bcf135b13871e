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
import { KEY_BARRIER, KEY_RELATION_BLOCK, KEY_RELATION_SIZE } from '../key/key.ts'
import type { Key } from '../key/key.ts'

export const FORK_ALL = 255

interface Barrier {
  readonly at: Lsn
  readonly fromBlock: number
  /** The newest older barrier that covers more: its `fromBlock` is smaller. */
  readonly wider: Barrier | undefined
  /** One further along the `wider` links, so that a search takes a logarithmic number of steps. */
  readonly jump: Barrier | undefined
  /** Links to the end. */
  readonly depth: number
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
    const wider = newestCovering(list?.at(-1), fromBlock - 1)
    const barrier: Barrier = {
      at,
      fromBlock,
      wider,
      jump: jumpFrom(wider),
      depth: wider === undefined ? 0 : wider.depth + 1,
    }
    if (list === undefined) this.#byFork.set(name, [barrier])
    else list.push(barrier)
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
    return list === undefined ? LSN_ZERO : (newestCovering(newestUpTo(list, at), block)?.at ?? LSN_ZERO)
  }
}

/** Binary search. */
function newestUpTo(list: readonly Barrier[], at: Lsn): Barrier | undefined {
  let low = 0
  let high = list.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((list[middle] as Barrier).at <= at) low = middle + 1
    else high = middle
  }
  return list[low - 1]
}

/**
 * `barrier`, or the newest older one that covers `block`. Along the links `fromBlock` falls, so any barrier before a
 * jump that still does not cover the block does not either. (Skew-binary jump pointers: Myers, An applicative
 * random-access stack, 1983.)
 */
function newestCovering(barrier: Barrier | undefined, block: number): Barrier | undefined {
  let here = barrier
  while (here !== undefined && here.fromBlock > block) {
    here = here.jump !== undefined && here.jump.fromBlock > block ? here.jump : here.wider
  }
  return here
}

/** Where a barrier jumps to whose next link is `wider`: twice as far as the two jumps before it, if these are equal. */
function jumpFrom(wider: Barrier | undefined): Barrier | undefined {
  const near = wider?.jump
  const far = near?.jump
  if (wider === undefined || near === undefined || far === undefined) return wider
  return wider.depth - near.depth === near.depth - far.depth ? far : wider
}
