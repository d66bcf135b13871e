/**
 * The reads of a shard that are under way: files of layers that have left the map go when every read has ended that
 * may have seen them there, and history stays for the long ones.
 */
import { LSN_MAX } from '@understory/base'
import type { Lsn } from '@understory/base'

/** Reads that began between two changes. */
interface Epoch {
  count: number
  isClosed: boolean
  readonly drained: PromiseWithResolvers<void>
}

const newEpoch = (): Epoch => ({ count: 0, isClosed: false, drained: Promise.withResolvers<void>() })

export class ReadsUnderWay {
  #epoch = newEpoch()
  /** Resolves once the reads of all earlier epochs have ended. */
  #earlier: Promise<void> = Promise.resolve()
  readonly #leases = new Set<{ readonly at: Lsn }>()

  /** A read begins; it ends with the function that is returned, to be called once. */
  begin(): () => void {
    const epoch = this.#epoch
    epoch.count++
    return () => {
      if (--epoch.count === 0 && epoch.isClosed) epoch.drained.resolve()
    }
  }

  async during<T>(read: () => Promise<T>): Promise<T> {
    const end = this.begin()
    try {
      return await read()
    } finally {
      end()
    }
  }

  /** Resolves once every read that has begun by now has ended. */
  ended(): Promise<void> {
    const epoch = this.#epoch
    this.#epoch = newEpoch()
    epoch.isClosed = true
    if (epoch.count === 0) epoch.drained.resolve()
    this.#earlier = Promise.all([this.#earlier, epoch.drained.promise]).then(() => undefined)
    return this.#earlier
  }

  /** History from `at` on stays until the function that is returned is called. */
  lease(at: Lsn): () => void {
    const lease = { at }
    this.#leases.add(lease)
    return () => this.#leases.delete(lease)
  }
  /** The oldest LSN that is leased, or the largest of all. */
  get oldestLease(): Lsn {
    let oldest = LSN_MAX
    for (const { at } of this.#leases) if (at < oldest) oldest = at
    return oldest
  }
}
