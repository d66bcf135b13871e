/**
 * WAL on its way to the disk. It waits in memory until a flush, which starts as soon as anything waits: one durable
 * write for all that came while the flush before was running. Nothing ever waits for a timer.
 *
 * It runs beside the timeline's mailbox, and hands back what became durable; the timeline takes that in as a job.
 */
import { Signal } from '@understory/actor'
import { advance, bytesBetween, isErrorCode } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { TimelineObserver } from '../telemetry/safekeeper-observer.ts'
import type { WalFiles } from './wal-files.ts'
import type { FairShare } from './wal-memory.ts'

/** Most WAL between two syncs. */
const FLUSH_BYTES_MAX = 4 * 1024 * 1024

/** One durable write. */
export interface Flush {
  readonly startLsn: Lsn
  readonly endLsn: Lsn
  /** Last record end at or before `endLsn`. */
  readonly recordEndLsn: Lsn
  /** Rises when unflushed WAL is dropped: a flush that began before is not reported. */
  readonly epoch: number
}

export interface GroupFlushParts {
  readonly files: Pick<WalFiles, 'write'>
  /** Of the memory for WAL that is not durable: above its part of it no more is to be handed in. */
  readonly share: FairShare
  readonly observer: TimelineObserver | undefined
  /** Called outside of any job; so is `onFailed`. */
  readonly onFlushed: (flush: Flush) => void
  /** After refused `disk_full` nothing more is written until `resume`. */
  readonly onFailed: (error: unknown, flush: Flush) => void
}

export class GroupFlush {
  readonly #parts: GroupFlushParts
  #waiting: Uint8Array[] = []
  /** Of each that waits: the last record end at or before its end. */
  #recordEnds: Lsn[] = []
  #waitingBytes = 0
  #runningBytes = 0
  #waitingStartLsn: Lsn
  #running: Promise<void> | undefined
  #epoch = 0
  #isStopped = false
  readonly #room = new Signal()

  constructor(parts: GroupFlushParts, startLsn: Lsn) {
    this.#parts = parts
    this.#waitingStartLsn = startLsn
  }

  /** Whether it holds so much that no more should be handed in for now. */
  get isFull(): boolean {
    return this.#waitingBytes + this.#runningBytes > this.#parts.share.partBytes
  }

  /** Whether nothing waits or runs. */
  get isIdle(): boolean {
    return this.#waiting.length === 0 && this.#running === undefined
  }

  /** Resolves after the next flush, or once that failed or what waits is dropped. */
  room(): Promise<void> {
    return this.#room.next()
  }

  /** Borrows `wal` until it is flushed or dropped. */
  enqueue(atLsn: Lsn, wal: Uint8Array, recordEndLsn: Lsn): void {
    if (this.#waiting.length === 0) this.#waitingStartLsn = atLsn
    this.#waiting.push(wal)
    this.#recordEnds.push(recordEndLsn)
    this.#hold(this.#waitingBytes + wal.length, this.#runningBytes)
    this.#parts.observer?.waits(advance(atLsn, wal.length))
  }

  /** Begins a flush where anything waits and none runs. */
  start(): void {
    if (this.#running !== undefined || this.#waiting.length === 0 || this.#isStopped) return
    this.#running = this.#flush()
  }

  /** Whether what it wrote is still part of the log. */
  isCurrent({ epoch }: Flush): boolean {
    return epoch === this.#epoch
  }

  /** Drops what waits: the log ends at `toLsn`. Resolves once nothing is being written. */
  async drop(toLsn: Lsn): Promise<void> {
    this.#epoch++
    this.#parts.observer?.dropped()
    this.#forget()
    this.#waitingStartLsn = toLsn
    this.#room.notify()
    await this.#running
  }

  /** After a write that had no room. */
  resume(): void {
    this.#running = undefined
  }

  /** Nothing more is written. */
  stop(): void {
    this.#isStopped = true
    this.#forget()
    this.#room.notify()
  }

  /** Resolves once nothing is being written. */
  async settled(): Promise<void> {
    await this.#running
  }

  #forget(): void {
    this.#waiting = []
    this.#recordEnds = []
    this.#hold(0, this.#runningBytes)
  }

  #hold(waitingBytes: number, runningBytes: number): void {
    this.#waitingBytes = waitingBytes
    this.#runningBytes = runningBytes
    this.#parts.share.note(this, waitingBytes + runningBytes > 0)
  }

  async #flush(): Promise<void> {
    const { files, observer, onFlushed, onFailed } = this.#parts
    const { flush, chunks } = this.#take()
    const { startLsn, endLsn } = flush
    const bytes = bytesBetween(startLsn, endLsn)
    observer?.flushing(endLsn, bytes)
    try {
      await files.write(startLsn, chunks)
      observer?.flushed(endLsn, bytes)
    } catch (error) {
      this.#hold(this.#waitingBytes, 0)
      if (!isErrorCode(error, 'disk_full')) this.#running = undefined
      onFailed(error, flush)
      return this.#room.notify()
    }
    this.#hold(this.#waitingBytes, 0)
    // `drop` waits for this promise, so the report must not hold it up.
    this.#running = undefined
    onFlushed(flush)
    this.#room.notify()
  }

  #take(): { readonly flush: Flush; readonly chunks: readonly Uint8Array[] } {
    const startLsn = this.#waitingStartLsn
    let count = 0
    let size = 0
    while (
      count < this.#waiting.length &&
      (count === 0 || size + (this.#waiting[count] as Uint8Array).length <= FLUSH_BYTES_MAX)
    ) {
      size += (this.#waiting[count++] as Uint8Array).length
    }
    const recordEndLsn = this.#recordEnds[count - 1] as Lsn
    const chunks = this.#waiting.splice(0, count)
    this.#recordEnds.splice(0, count)
    this.#hold(this.#waitingBytes - size, size)
    const endLsn = advance(startLsn, size)
    this.#waitingStartLsn = endLsn
    return { flush: { startLsn, endLsn, recordEndLsn, epoch: this.#epoch }, chunks }
  }
}
