/**
 * Goal: a shard leaves a safekeeper that does not advance while another does, and no other. Method: a table of looks at
 * the positions, one after the other.
 */
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { BEHIND_MS_MAX, SILENT_MS_MAX, judgeSafekeeper } from './leave-safekeeper.ts'
import type { Lag } from './leave-safekeeper.ts'

interface Look {
  readonly atMs: number
  readonly commit: number
  readonly others: readonly number[]
  readonly received?: number
  readonly waitsSinceMs?: number
}

/** The reason, and the number of the look at which the safekeeper is left; undefined where it never is. */
function run(looks: readonly Look[]): string | undefined {
  let lag: Lag | undefined
  for (const [number, { atMs, commit, others, received = commit, waitsSinceMs }] of looks.entries()) {
    const followed = { commitLsn: lsn(commit), receivedLsn: lsn(received), waitsSinceMs }
    const judgement = judgeSafekeeper(followed, others.map(lsn), lag, atMs)
    if (judgement.kind === 'leave') return `${judgement.reason} at ${number}`
    ;({ lag } = judgement)
  }
  return undefined
}

const LATE = BEHIND_MS_MAX

test.each<readonly [string, readonly Look[], string | undefined]>([
  [
    'one that stands still while another advances is left',
    [
      { atMs: 0, commit: 100, others: [100, 100] },
      { atMs: 1_000, commit: 100, others: [100, 108] },
      { atMs: 1_000 + LATE - 1, commit: 100, others: [100, 900] },
      { atMs: 1_000 + LATE, commit: 100, others: [100, 900] },
    ],
    'behind at 3',
  ],
  [
    'a few bytes whose commit was never reported to it count, as the last commit of a lost compute',
    [
      { atMs: 0, commit: 100, others: [108] },
      { atMs: LATE, commit: 100, others: [108] },
    ],
    'behind at 1',
  ],
  [
    'one that follows a little behind is not',
    [
      { atMs: 0, commit: 100, others: [200] },
      { atMs: LATE - 1, commit: 200, others: [300] },
      { atMs: 2 * LATE - 2, commit: 300, others: [400] },
      { atMs: 3 * LATE - 3, commit: 400, others: [500] },
    ],
    undefined,
  ],
  [
    'one that advances, but slower than the others, is left',
    [
      { atMs: 0, commit: 100, others: [1_000] },
      { atMs: LATE / 2, commit: 200, others: [2_000] },
      { atMs: LATE, commit: 300, others: [3_000] },
    ],
    'behind at 2',
  ],
  [
    'where no other safekeeper has more, none is left',
    [
      { atMs: 0, commit: 100, others: [100, 50] },
      { atMs: 100 * LATE, commit: 100, others: [100, 50], waitsSinceMs: 0 },
    ],
    undefined,
  ],
  [
    'where no other safekeeper answers, it is kept',
    [
      { atMs: 0, commit: 100, others: [] },
      { atMs: 100 * LATE, commit: 100, others: [], waitsSinceMs: 0 },
    ],
    undefined,
  ],
  [
    'one that was behind and has caught up begins again',
    [
      { atMs: 0, commit: 100, others: [200] },
      { atMs: LATE - 1, commit: 200, others: [200] },
      { atMs: LATE, commit: 200, others: [208] },
      { atMs: 2 * LATE - 1, commit: 200, others: [208] },
      { atMs: 2 * LATE, commit: 200, others: [208] },
    ],
    'behind at 4',
  ],
  [
    'one that has WAL and sends none is left',
    [
      { atMs: SILENT_MS_MAX - 1, commit: 200, received: 100, others: [200], waitsSinceMs: 0 },
      { atMs: SILENT_MS_MAX, commit: 200, received: 100, others: [200], waitsSinceMs: 0 },
    ],
    'silent at 1',
  ],
  [
    'a shard that is busy itself does not blame its safekeeper',
    [{ atMs: 10 * SILENT_MS_MAX, commit: 200, received: 100, others: [200] }],
    undefined,
  ],
])('%s', (_, looks, expected) => {
  expect(run(looks)).toBe(expected)
})
