/** Were there commits whenever there had to be? Pure: times in, gaps out. */

export interface Interval {
  readonly fromMs: number
  readonly toMs: number
}

export interface Gap extends Interval {
  readonly lengthMs: number
}

/** The times without any commit that are longer than `minMs`, those of no obligation left out; longest first. */
export function gapsWithin(
  commitsMs: readonly number[],
  obliged: readonly Interval[],
  minMs: number,
): readonly Gap[] {
  const gaps: Gap[] = []
  let next = 0
  for (const { fromMs, toMs } of obliged) {
    while (next < commitsMs.length && (commitsMs[next] as number) <= fromMs) next++
    let lastMs = fromMs
    const note = (untilMs: number): void => {
      const lengthMs = untilMs - lastMs
      if (lengthMs > minMs) gaps.push({ fromMs: lastMs, toMs: untilMs, lengthMs })
      lastMs = untilMs
    }
    for (; next < commitsMs.length && (commitsMs[next] as number) < toMs; next++)
      note(commitsMs[next] as number)
    note(toMs)
  }
  return gaps.toSorted((a, b) => b.lengthMs - a.lengthMs)
}

/** The parts of a time that are left when others are taken out of it, in order. */
export function without(whole: Interval, taken: readonly Interval[]): readonly Interval[] {
  const left: Interval[] = []
  let fromMs = whole.fromMs
  for (const interval of taken.toSorted((a, b) => a.fromMs - b.fromMs)) {
    if (interval.fromMs > fromMs) left.push({ fromMs, toMs: Math.min(interval.fromMs, whole.toMs) })
    fromMs = Math.max(fromMs, interval.toMs)
  }
  if (fromMs < whole.toMs) left.push({ fromMs, toMs: whole.toMs })
  return left.filter((interval) => interval.toMs > interval.fromMs)
}

export function firstAfter(commitsMs: readonly number[], timeMs: number): number | undefined {
  return commitsMs.find((commitMs) => commitMs > timeMs)
}

export const countWithin = (commitsMs: readonly number[], { fromMs, toMs }: Interval): number =>
  commitsMs.filter((commitMs) => commitMs > fromMs && commitMs < toMs).length
