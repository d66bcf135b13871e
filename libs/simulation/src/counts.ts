/** The counts of a run: faults by kind, transitions, and other things worth counting. */

/** Every fault that can be injected; a campaign names those it never saw. */
export const FAULT_KINDS = [
  'message lost',
  'message repeated',
  'messages reordered',
  'stream broken',
  'slow link',
  'partition',
  'one-way partition',
  'flapping link',
  'process killed',
  'power lost',
  'power lost everywhere',
  'crash between effects',
  'process paused',
  'unsynced write lost',
  'unsynced write torn',
  'sync failed',
  'bit flip on read',
  'disk full',
  'slow disk',
  'disk lost for good',
  'proposer killed',
  'proposer restarted',
  'proposer misled',
  'membership change',
] as const
export type FaultKind = (typeof FAULT_KINDS)[number]

export class Counts {
  readonly faults = new Map<FaultKind, number>()
  readonly transitions = new Map<string, number>()
  readonly others = new Map<string, number>()

  fault(kind: FaultKind): void {
    this.faults.set(kind, (this.faults.get(kind) ?? 0) + 1)
  }
  transition(name: string): void {
    this.transitions.set(name, (this.transitions.get(name) ?? 0) + 1)
  }
  other(name: string): void {
    this.others.set(name, (this.others.get(name) ?? 0) + 1)
  }
}
