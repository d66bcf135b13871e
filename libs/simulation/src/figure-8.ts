/**
 * The schedule of figure 8 of the Raft paper ("In Search of an Understandable Consensus Algorithm", Ongaro and
 * Ousterhout, 2014), which a small model cannot reach: a leader brings entries of an older term to a majority, but not
 * yet all that its own term starts from. Were they called committed, another leader could still replace them.
 */
import { Model, initialModel } from './small-model.ts'

/** The terms of the entries that are committed in the end. */
export function figure8(): readonly number[] {
  const world = new Model(initialModel({ acceptorsCount: 5, proposersCount: 2, termMax: 4, entriesMax: 2 }))
  const lead = (p: number, quorum: readonly number[]): void => {
    world.restart(p, quorum)
    for (const a of quorum) world.vote(p, a)
  }
  // Term 1: two entries reach two of five.
  lead(0, [0, 1, 2])
  for (const a of [0, 1]) world.announce(0, a)
  world.addEntry(0)
  world.addEntry(0)
  for (const a of [0, 0, 1, 1]) world.append(0, a)
  // Term 2, of the others: an entry at the same place reaches one.
  lead(1, [2, 3, 4])
  world.announce(1, 4)
  world.addEntry(1)
  world.append(1, 4)
  // Term 3 starts from the two entries and brings the first of them to a third acceptor.
  lead(0, [0, 1, 2])
  for (const a of [0, 1, 2]) world.announce(0, a)
  world.append(0, 2)
  // Term 4: the log whose last term is 2 wins over the one entry of term 1.
  lead(1, [2, 3, 4])
  for (const a of [2, 3, 4]) world.announce(1, a)
  for (const a of [2, 3]) world.append(1, a)
  return world.committed
}
