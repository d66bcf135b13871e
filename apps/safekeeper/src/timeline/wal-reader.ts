/**
 * Where a timeline's durable WAL is read: recent WAL from memory, then its files, and what is released from the object
 * store.
 */
import { advance, bytesBetween, formatLsn, minLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { WalBuffer } from '@understory/consensus'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { onlyStored } from './remote-wal.ts'
import type { RemoteWal } from './remote-wal.ts'
import { checkWal } from './wal-check.ts'
import type { WalFiles } from './wal-files.ts'
import type { FairShare } from './wal-memory.ts'

export interface WalReaderParts {
  readonly identity: PostgresIdentity
  readonly files: WalFiles
  /** Undefined where there is no object store. */
  readonly remote: RemoteWal | undefined
  /** Of the memory for recent WAL. */
  readonly share: FairShare
  /** Before it nothing is kept here. */
  readonly oldestLsn: Lsn
  readonly endLsn: Lsn
}

export class WalReader {
  readonly #parts: WalReaderParts
  #recent: WalBuffer
  #oldestLsn: Lsn

  constructor(parts: WalReaderParts) {
    this.#parts = parts
    this.#recent = new WalBuffer(parts.endLsn)
    this.#oldestLsn = parts.oldestLsn
  }

  /** Before it nothing is kept here. */
  get oldestLsn(): Lsn {
    return this.#oldestLsn
  }

  /** Whether WAL that is released here can still be read. */
  get hasRemote(): boolean {
    return this.#parts.remote !== undefined
  }

  /** WAL that goes to the files, and that many will soon ask for. Borrows it. */
  append(atLsn: Lsn, wal: Uint8Array, recordEndLsn: Lsn): void {
    const recent = this.#recent
    const { share } = this.#parts
    recent.push(atLsn, wal, recordEndLsn)
    share.note(this, true)
    recent.trim(advance(recent.endLsn, -Math.min(Math.floor(share.partBytes), recent.endLsn)))
  }

  /** The log ends there. */
  cut(toLsn: Lsn): void {
    this.#recent = new WalBuffer(toLsn)
    this.#parts.share.note(this, false)
  }

  /**
   * [startLsn, endLsn), which is durable. Errors: `unavailable` where only an object store that is not known has it.
   */
  async read(startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    if (bytesBetween(startLsn, endLsn) === 0) return new Uint8Array(0)
    if (startLsn >= this.#recent.startLsn && endLsn <= this.#recent.endLsn)
      return this.#recent.read(startLsn, endLsn).bytes
    if (startLsn >= this.#oldestLsn) {
      try {
        return await this.#parts.files.read(startLsn, endLsn)
      } catch (error) {
        // It may have been released in the meantime.
        if (startLsn >= this.#oldestLsn) throw error
      }
    }
    return this.#readRemote(startLsn, endLsn)
  }

  async #readRemote(startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    const { identity, remote } = this.#parts
    if (remote === undefined) throw onlyStored(this.#oldestLsn)
    const middle = minLsn(endLsn, this.#oldestLsn)
    const stored = await remote.read(identity, startLsn, middle)
    return middle === endLsn ? stored : Buffer.concat([stored, await this.read(middle, endLsn)])
  }

  /**
   * Reads through what is kept here, up to the record end `endLsn`. `afterPart` may slow it down, or end it by
   * rejecting. Rejects with the damage: `bad_file`.
   */
  async check(endLsn: Lsn, afterPart: () => Promise<void>): Promise<void> {
    const { files, identity } = this.#parts
    const from = { startLsn: this.#oldestLsn, findFirst: true }
    const { place, problem } = await checkWal(files, identity, from, endLsn, afterPart)
    if (problem === undefined) return
    // WAL that was released in the meantime is not missing.
    if (this.#oldestLsn > place.startLsn) return
    throw fail('bad_file', `WAL is damaged at ${formatLsn(place.startLsn)}`, { detail: problem })
  }

  /** Removes the files of whole segments before `lsn`, which are in the object store. */
  async releaseBefore(lsn: Lsn): Promise<void> {
    // First, so that readers look elsewhere before the files are gone.
    this.#oldestLsn = lsn
    await this.#parts.files.removeBefore(lsn)
  }

  /** Nothing can be read after it. */
  async close(): Promise<void> {
    this.cut(this.#recent.endLsn)
    await this.#parts.files.close()
  }

  /** Keeps neither WAL in memory nor files open; all that was taken in is in the files. */
  async releaseIdle(): Promise<void> {
    this.cut(this.#recent.endLsn)
    await this.#parts.files.releaseIdle()
  }
}
