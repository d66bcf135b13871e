/** The runs of a scan, the one with the smallest key first: a binary heap. */
import { compareKeys } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import type { KeyRun, KeyRuns } from './layer.ts'

export interface ScanHead {
  /** Of its layer: larger is newer. */
  readonly age: number
  readonly runs: KeyRuns
  run: KeyRun
  /** Index within the run, and the key there. */
  next: number
  key: Key
}

/** Of equal keys the one of the newest layer comes first. */
const isBefore = (a: ScanHead, b: ScanHead): boolean => (compareKeys(a.key, b.key) || b.age - a.age) < 0

export class ScanHeads {
  /** The children of `i` are `2i + 1` and `2i + 2`, neither before it. */
  readonly #heap: ScanHead[] = []

  get first(): ScanHead | undefined {
    return this.#heap[0]
  }

  add(head: ScanHead): void {
    const heap = this.#heap
    let at = heap.length
    heap.push(head)
    while (at > 0) {
      const parent = (at - 1) >>> 1
      if (!isBefore(head, heap[parent] as ScanHead)) break
      heap[at] = heap[parent] as ScanHead
      at = parent
    }
    heap[at] = head
  }

  /**
   * To the next key of its run, or of the run after it; one without more leaves. To be awaited where it gives a
   * promise.
   */
  advanceFirst(): void | Promise<void> {
    const head = this.#heap[0]
    if (head === undefined) return
    head.next++
    if (head.next < head.run.length) {
      head.key = head.run.keyAt(head.next)
      this.#sink(head)
      return
    }
    const run = head.runs.next()
    return run instanceof Promise ? run.then((loaded) => this.#resume(head, loaded)) : this.#resume(head, run)
  }

  #resume(head: ScanHead, run: KeyRun | undefined): void {
    if (run === undefined) {
      const last = this.#heap.pop()
      if (last !== undefined && this.#heap.length > 0) this.#sink(last)
      return
    }
    head.run = run
    head.next = 0
    head.key = run.keyAt(0)
    this.#sink(head)
  }

  /** Puts `head` where it belongs, from the top down. */
  #sink(head: ScanHead): void {
    const heap = this.#heap
    const size = heap.length
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= size) break
      if (child + 1 < size && isBefore(heap[child + 1] as ScanHead, heap[child] as ScanHead)) child++
      if (!isBefore(heap[child] as ScanHead, head)) break
      heap[at] = heap[child] as ScanHead
      at = child
    }
    heap[at] = head
  }
}
