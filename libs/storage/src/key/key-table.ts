/**
 * Gives keys small numbers, so that everything per key lives in typed arrays. Numbers count from 0 and never change;
 * a table only grows. Open addressing over columns: about 30 ns a look-up, no object a key.
 */
import { assert } from '@understory/base'
import type { Key } from './key.ts'

/** A relation fork, or the like of another class: a key without its block. */
export interface Fork {
  readonly keyClass: number
  readonly spcOid: number
  readonly dbOid: number
  readonly rel: number
  readonly fork: number
  /** The key of this fork that was met last, where the list through `nextInFork` begins. */
  lastKeyId: number
}

const forkName = (keyClass: number, spcOid: number, dbOid: number, rel: number, fork: number): string =>
  `${keyClass}/${spcOid}/${dbOid}/${rel}/${fork}`

export class KeyTable {
  #capacity = 1024
  /** class << 8 | fork */
  #classFork = new Uint16Array(this.#capacity)
  #spcOid = new Uint32Array(this.#capacity)
  #dbOid = new Uint32Array(this.#capacity)
  #rel = new Uint32Array(this.#capacity)
  #block = new Uint32Array(this.#capacity)
  #nextInFork = new Int32Array(this.#capacity)
  /** Key number + 1, or 0: at most half full. */
  #slots = new Uint32Array(this.#capacity * 2)
  readonly #forks = new Map<string, Fork>()
  #lastFork: Fork | undefined
  #count = 0

  get count(): number {
    return this.#count
  }
  get forks(): IterableIterator<Fork> {
    return this.#forks.values()
  }
  fork(keyClass: number, spcOid: number, dbOid: number, rel: number, fork: number): Fork | undefined {
    return this.#forks.get(forkName(keyClass, spcOid, dbOid, rel, fork))
  }

  /** Number of the encoded key (18 bytes) at `view[at]`. */
  internAt(view: DataView, at: number): number {
    const classFork = (view.getUint8(at) << 8) | view.getUint8(at + 13)
    return this.#find(
      classFork,
      view.getUint32(at + 1),
      view.getUint32(at + 5),
      view.getUint32(at + 9),
      view.getUint32(at + 14),
      true,
    )
  }
  intern({ keyClass, spcOid, dbOid, rel, fork, block }: Key): number {
    return this.#find((keyClass << 8) | fork, spcOid, dbOid, rel, block, true)
  }
  /** -1 where the key was never met. */
  lookUp({ keyClass, spcOid, dbOid, rel, fork, block }: Key): number {
    return this.#find((keyClass << 8) | fork, spcOid, dbOid, rel, block, false)
  }

  keyOf(id: number): Key {
    assert(id >= 0 && id < this.#count, () => `key number ${id} of ${this.#count}`)
    const classFork = this.#classFork[id] as number
    return {
      keyClass: classFork >>> 8,
      spcOid: this.#spcOid[id] as number,
      dbOid: this.#dbOid[id] as number,
      rel: this.#rel[id] as number,
      fork: classFork & 0xff,
      block: this.#block[id] as number,
    }
  }
  classOf(id: number): number {
    return (this.#classFork[id] as number) >>> 8
  }
  blockOf(id: number): number {
    return this.#block[id] as number
  }
  /** The key of the same fork that was met before this one, or -1. */
  nextInFork(id: number): number {
    return this.#nextInFork[id] as number
  }

  /** Order of the encoded bytes. */
  compare(a: number, b: number): number {
    const classForkA = this.#classFork[a] as number
    const classForkB = this.#classFork[b] as number
    return (
      (classForkA >>> 8) - (classForkB >>> 8) ||
      (this.#spcOid[a] as number) - (this.#spcOid[b] as number) ||
      (this.#dbOid[a] as number) - (this.#dbOid[b] as number) ||
      (this.#rel[a] as number) - (this.#rel[b] as number) ||
      (classForkA & 0xff) - (classForkB & 0xff) ||
      (this.#block[a] as number) - (this.#block[b] as number)
    )
  }

  /** `compareKeys` with a key of this table. */
  compareWith(id: number, key: Key): number {
    const classFork = this.#classFork[id] as number
    return (
      (classFork >>> 8) - key.keyClass ||
      (this.#spcOid[id] as number) - key.spcOid ||
      (this.#dbOid[id] as number) - key.dbOid ||
      (this.#rel[id] as number) - key.rel ||
      (classFork & 0xff) - key.fork ||
      (this.#block[id] as number) - key.block
    )
  }

  #find(
    classFork: number,
    spcOid: number,
    dbOid: number,
    rel: number,
    block: number,
    isAdding: boolean,
  ): number {
    const mask = this.#slots.length - 1
    let slot = hash(classFork, spcOid, dbOid, rel, block) & mask
    for (;;) {
      const id = (this.#slots[slot] as number) - 1
      if (id < 0) break
      if (
        this.#block[id] === block &&
        this.#rel[id] === rel &&
        this.#classFork[id] === classFork &&
        this.#dbOid[id] === dbOid &&
        this.#spcOid[id] === spcOid
      )
        return id
      slot = (slot + 1) & mask
    }
    return isAdding ? this.#add(slot, classFork, spcOid, dbOid, rel, block) : -1
  }

  #add(slot: number, classFork: number, spcOid: number, dbOid: number, rel: number, block: number): number {
    const id = this.#count++
    const isFull = id === this.#capacity
    if (isFull) this.#grow()
    this.#classFork[id] = classFork
    this.#spcOid[id] = spcOid
    this.#dbOid[id] = dbOid
    this.#rel[id] = rel
    this.#block[id] = block
    if (isFull) this.#rehash()
    else this.#slots[slot] = id + 1
    const fork = this.#forkOf(classFork, spcOid, dbOid, rel)
    this.#nextInFork[id] = fork.lastKeyId
    fork.lastKeyId = id
    return id
  }

  #forkOf(classFork: number, spcOid: number, dbOid: number, rel: number): Fork {
    const keyClass = classFork >>> 8
    const number = classFork & 0xff
    const last = this.#lastFork
    if (
      last !== undefined &&
      last.rel === rel &&
      last.fork === number &&
      last.dbOid === dbOid &&
      last.spcOid === spcOid &&
      last.keyClass === keyClass
    )
      return last
    const name = forkName(keyClass, spcOid, dbOid, rel, number)
    let fork = this.#forks.get(name)
    if (fork === undefined) {
      fork = { keyClass, spcOid, dbOid, rel, fork: number, lastKeyId: -1 }
      this.#forks.set(name, fork)
    }
    this.#lastFork = fork
    return fork
  }

  #grow(): void {
    const capacity = this.#capacity * 2
    this.#capacity = capacity
    this.#classFork = grown(this.#classFork, new Uint16Array(capacity))
    this.#spcOid = grown(this.#spcOid, new Uint32Array(capacity))
    this.#dbOid = grown(this.#dbOid, new Uint32Array(capacity))
    this.#rel = grown(this.#rel, new Uint32Array(capacity))
    this.#block = grown(this.#block, new Uint32Array(capacity))
    this.#nextInFork = grown(this.#nextInFork, new Int32Array(capacity))
    this.#slots = new Uint32Array(capacity * 2)
  }

  /** Refills the slots with every key below `count`. */
  #rehash(): void {
    const mask = this.#slots.length - 1
    this.#slots.fill(0)
    for (let id = 0; id < this.#count; id++) {
      let slot =
        hash(
          this.#classFork[id] as number,
          this.#spcOid[id] as number,
          this.#dbOid[id] as number,
          this.#rel[id] as number,
          this.#block[id] as number,
        ) & mask
      while (this.#slots[slot] !== 0) slot = (slot + 1) & mask
      this.#slots[slot] = id + 1
    }
  }
}

function hash(classFork: number, spcOid: number, dbOid: number, rel: number, block: number): number {
  let h = Math.imul(block, 0x9e3779b1) ^ Math.imul(rel, 0x85ebca6b) ^ Math.imul(classFork, 0xc2b2ae35)
  h ^= Math.imul(dbOid, 0x27d4eb2f) ^ Math.imul(spcOid, 0x165667b1)
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d)
  return (h ^ (h >>> 13)) >>> 0
}

/** The content of `from` at the beginning of `to`. */
export function grown<A extends { set(from: A): void }>(from: A, to: A): A {
  to.set(from)
  return to
}
