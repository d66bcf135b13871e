import type { Corpus } from './samples.ts'

export interface FuzzThreadData {
  readonly corpus: Corpus
  readonly recordsCount: number
  readonly seed: number
  /** Element 0 counts the cases that were begun; shared. */
  readonly progress: Int32Array
}
