/**
 * The faults of one schedule, drawn from its seed as a list before it runs. A list can be shrunk: each fault has its
 * own chance, so leaving one out does not change what the others are.
 */
import { seededRng } from '@understory/env'
import type { FaultKind } from './counts.ts'

export interface PlannedFault {
  /** Its place in the list, by which it is named when a schedule is replayed without others. */
  readonly index: number
  readonly atMs: number
  readonly kind: FaultKind
  readonly durationMs: number
  /** For what is left to draw: whom it strikes, and how. */
  readonly seed: number
}

/** How often each kind is drawn, of those that are planned and not part of the weather. */
const WEIGHTS: readonly (readonly [FaultKind, number])[] = [
  ['partition', 6],
  ['one-way partition', 5],
  ['flapping link', 4],
  ['slow link', 5],
  ['process killed', 8],
  ['power lost', 10],
  ['power lost everywhere', 2],
  ['crash between effects', 14],
  ['process paused', 5],
  ['sync failed', 5],
  ['bit flip on read', 4],
  ['disk full', 3],
  ['slow disk', 6],
  ['disk lost for good', 1],
  ['proposer killed', 5],
  ['proposer restarted', 5],
  ['proposer misled', 2],
  ['membership change', 6],
]
const WEIGHTS_SUM = WEIGHTS.reduce((sum, [, weight]) => sum + weight, 0)

export function planFaults(seed: number, untilMs: number): PlannedFault[] {
  const rng = seededRng(seed * 4 + 1)
  const count = 12 + rng.below(24)
  const faults: Omit<PlannedFault, 'index'>[] = []
  for (let n = 0; n < count; n++) {
    let draw = rng.below(WEIGHTS_SUM)
    const [kind] = WEIGHTS.find(([, weight]) => (draw -= weight) < 0) as readonly [FaultKind, number]
    faults.push({ atMs: rng.below(untilMs), kind, durationMs: 20 + rng.below(600), seed: rng.u32() })
  }
  // Making a timeline is a matter of its first milliseconds.
  if (rng.below(6) === 0)
    faults.push({ atMs: 0, kind: 'crash between effects', durationMs: 0, seed: rng.u32() })
  return faults.sort((a, b) => a.atMs - b.atMs).map((fault, index) => ({ index, ...fault }))
}
