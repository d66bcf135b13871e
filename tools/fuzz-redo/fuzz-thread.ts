/** The thread of the fuzzer: a case that never ends stops this thread and not the command. */
import { parentPort, workerData } from 'node:worker_threads'
import { fuzz } from './fuzz.ts'
import type { FuzzThreadData } from './fuzz-protocol.ts'

const { corpus, recordsCount, seed, progress } = workerData as FuzzThreadData
const report = fuzz(corpus, { recordsCount, seed, onCase: () => void Atomics.add(progress, 0, 1) })
parentPort?.postMessage(report)
