/** Counts of durations by fixed upper edges, each about 1.26 times the one before: 5 µs to 20 s. */
const EDGES_US: readonly number[] = Array.from({ length: 67 }, (_, i) => Math.round(5 * 1.26 ** i))

export class LatencyHistogram {
  readonly #counts = new Float64Array(EDGES_US.length)
  #count = 0

  get count(): number {
    return this.#count
  }

  add(durationUs: number): void {
    let low = 0
    let high = EDGES_US.length - 1
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((EDGES_US[middle] as number) >= durationUs) high = middle
      else low = middle + 1
    }
    this.#counts[low] = (this.#counts[low] as number) + 1
    this.#count++
  }

  /** Upper edge in microseconds and count, one after the other, of the edges that have any. */
  pairs(): bigint[] {
    return EDGES_US.flatMap((edge, i) => {
      const count = this.#counts[i] as number
      return count === 0 ? [] : [BigInt(edge), BigInt(count)]
    })
  }
}
