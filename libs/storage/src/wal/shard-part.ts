/** One shard's part of the WAL while it is split: what is written, and the shard's keys of the record at hand. */
import type { DecodedRecord, RelFile } from '@understory/postgres/wal'
import { KEY_RELATION_BLOCK, KEY_SLRU_PAGE } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import { ShardStreamWriter } from './shard-stream.ts'
import type { RecordKey } from './shard-stream.ts'

interface WritableKey extends RecordKey {
  role: number
  blockIndex: number
  readonly key: { -readonly [K in keyof Key]: Key[K] }
}

const makeKey = (): WritableKey => ({
  role: 0,
  blockIndex: 0,
  key: { keyClass: 0, spcOid: 0, dbOid: 0, rel: 0, fork: 0, block: 0 },
})

/** Hot: key objects are used again. */
export class ShardPart {
  readonly number: number
  readonly writer = new ShardStreamWriter()
  readonly #keys: WritableKey[] = []
  readonly #pool: WritableKey[] = []

  constructor(number: number) {
    this.number = number
  }

  get hasKeys(): boolean {
    return this.#keys.length > 0
  }

  addBlock(role: number, blockIndex: number, rel: RelFile, fork: number, block: number): void {
    const key = this.#add(role, blockIndex, KEY_RELATION_BLOCK)
    key.spcOid = rel.spcOid
    key.dbOid = rel.dbOid
    key.rel = rel.relNumber
    key.fork = fork
    key.block = block
  }

  addSlruPage(role: number, slruNumber: number, page: number): void {
    const key = this.#add(role, 0, KEY_SLRU_PAGE)
    key.spcOid = slruNumber
    key.dbOid = key.rel = key.fork = 0
    key.block = page
  }

  /** Two blocks of a record may share a map page, and a transaction may touch an SLRU page twice: one key each. */
  hasKey(role: number, spcOid: number, block: number): boolean {
    for (const entry of this.#keys) {
      if (entry.role === role && entry.key.block === block && entry.key.spcOid === spcOid) return true
    }
    return false
  }

  releaseKeys(): void {
    for (let entry = this.#keys.pop(); entry !== undefined; entry = this.#keys.pop()) this.#pool.push(entry)
  }

  /** `bytes` is the record, or a part of it; it goes with the keys of now. */
  write({ recordLsn, nextLsn }: DecodedRecord, flags: number, bytes: Uint8Array): void {
    this.writer.record(flags, recordLsn, nextLsn, this.#keys, bytes)
  }

  #add(role: number, blockIndex: number, keyClass: number): WritableKey['key'] {
    const entry = this.#pool.pop() ?? makeKey()
    entry.role = role
    entry.blockIndex = blockIndex
    entry.key.keyClass = keyClass
    this.#keys.push(entry)
    return entry.key
  }
}
