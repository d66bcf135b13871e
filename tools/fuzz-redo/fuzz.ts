/** Runs cases by the batch; what fails is shrunk and kept once per kind of fault. */
import fc from 'fast-check'
import { Fault, checkCase, newCaseCounts, typeOf } from './check-case.ts'
import type { CaseCounts } from './check-case.ts'
import { checkStream, streamCase } from './check-stream.ts'
import { redoCase } from './mutate.ts'
import type { Corpus } from './samples.ts'

export interface FaultFound {
  readonly kind: string
  readonly message: string
  readonly seed: number
  readonly path: string
  readonly case: string
}

export interface FuzzReport {
  readonly redo: CaseCounts
  readonly streams: number
  readonly streamRecords: number
  /** Of one case, the slowest. A case over the limit counts as a fault if it is so a second time. */
  readonly caseMsMax: number
  readonly faults: readonly FaultFound[]
}

export interface FuzzOptions {
  readonly recordsCount: number
  readonly seed: number
  /** Called before each case: what watches for a hang sees it stop. */
  readonly onCase?: () => void
}

const CASE_MS_MAX = 250
/** A case is small as it is drawn; its smallest form is not worth more tries. */
const SHRINKS_MAX = 300
/** With so many there is something to repair first. */
const FAULTS_MAX = 50
const BATCH_CASES = 1000
/** So many cases of redo come with one of the decoder. */
const CASES_PER_STREAM = 10

const kindOf = (error: unknown, type: string): string => {
  const { message, stack } = error as Error
  const place =
    error instanceof Fault
      ? message.replaceAll(/[0-9A-Fa-f]*\d[0-9A-Fa-f]*/g, 'n')
      : stack?.split('\n').slice(0, 3).join(' ')
  return `${type}: ${place}`
}

export function fuzz(corpus: Corpus, { recordsCount, seed, onCase }: FuzzOptions): FuzzReport {
  const redo = newCaseCounts()
  const faults = new Map<string, FaultFound>()
  let streams = 0
  let streamRecords = 0
  let caseMsMax = 0

  const timed = (work: () => void): void => {
    onCase?.()
    const run = (): number => {
      const startedMs = performance.now()
      work()
      return performance.now() - startedMs
    }
    let ms = run()
    // Once more, since the machine may have been busy elsewhere.
    if (ms > CASE_MS_MAX) ms = Math.min(ms, run())
    caseMsMax = Math.max(caseMsMax, ms)
    if (ms > CASE_MS_MAX) throw new Fault(`took ${Math.round(ms)} ms`)
  }
  const batch = <T>(
    cases: fc.Arbitrary<T>,
    count: number,
    batchSeed: number,
    work: (drawn: T) => void,
    nameOf: (drawn: T) => string,
  ): void => {
    let failing: string | undefined
    let shrinks = 0
    const property = fc.property(cases, (drawn) => {
      if (failing !== undefined && ++shrinks > SHRINKS_MAX) return
      try {
        timed(() => work(drawn))
      } catch (error) {
        const kind = kindOf(error, nameOf(drawn))
        // While one fault is shrunk, others count as passed.
        if (faults.has(kind) || (failing !== undefined && kind !== failing)) return
        failing = kind
        throw error
      }
    })
    for (let from = 0; from < count;) {
      failing = undefined
      shrinks = 0
      const found = fc.check(property, { seed: batchSeed + from, numRuns: count - from })
      if (!found.failed || failing === undefined) break
      faults.set(failing, {
        kind: failing,
        message: String(found.errorInstance),
        seed: found.seed,
        path: found.counterexamplePath ?? '',
        case: JSON.stringify(found.counterexample),
      })
      from += found.numRuns
    }
  }

  for (let done = 0; done < recordsCount && faults.size < FAULTS_MAX; done += BATCH_CASES) {
    const count = Math.min(BATCH_CASES, recordsCount - done)
    const batchSeed = seed + done
    batch(
      redoCase,
      count,
      batchSeed,
      (drawn) => checkCase(corpus, drawn, redo),
      (drawn) => typeOf(corpus, drawn),
    )
    batch(
      streamCase,
      Math.ceil(count / CASES_PER_STREAM),
      batchSeed,
      (drawn) => {
        streams++
        streamRecords += checkStream(corpus, drawn)
      },
      () => 'stream',
    )
  }
  return { redo, streams, streamRecords, caseMsMax, faults: [...faults.values()] }
}
