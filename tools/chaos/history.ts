/**
 * A history of lists to which clients append, and its check against what the lists are in the end.
 *
 * Every value is appended once. What the database may not do: lose an append that it acknowledged; show one that was
 * never sent, or that was rolled back; show a list that is not a beginning of the final one; show less than a client
 * has seen, or had acknowledged, before the reading began. An append of unknown outcome may be there or not.
 */

export type Outcome = 'acknowledged' | 'unknown' | 'failed'

export interface Append {
  readonly key: number
  readonly value: number
  readonly outcome: Outcome
  /** When it was sent, and when its outcome was known, on one clock. */
  readonly beganMs: number
  readonly endedMs: number
}

/** The part of one list that a transaction that ended well saw. */
export interface Read {
  readonly key: number
  readonly items: readonly number[]
  readonly beganMs: number
  readonly endedMs: number
}

export interface History {
  readonly appends: readonly Append[]
  readonly reads: readonly Read[]
}

export type AnomalyKind = 'lost' | 'ghost' | 'twice' | 'torn read' | 'went back'

export interface Anomaly {
  readonly kind: AnomalyKind
  readonly text: string
}

/** Everything that may not be, given the lists by key as they are in the end. */
export function checkHistory(
  { appends, reads }: History,
  lists: ReadonlyMap<number, readonly number[]>,
): Anomaly[] {
  const appendsByKey = Map.groupBy(appends, ({ key }) => key)
  const readsByKey = Map.groupBy(reads, ({ key }) => key)
  const keys = new Set([...appendsByKey.keys(), ...readsByKey.keys(), ...lists.keys()])
  return [...keys].flatMap((key) =>
    checkList(key, appendsByKey.get(key) ?? [], readsByKey.get(key) ?? [], lists.get(key) ?? []),
  )
}

function checkList(
  key: number,
  appends: readonly Append[],
  reads: readonly Read[],
  list: readonly number[],
): Anomaly[] {
  const anomalies: Anomaly[] = []
  const note = (kind: AnomalyKind, text: string): void => void anomalies.push({ kind, text })
  const places = new Map<number, number>()
  list.forEach((value, place) => {
    if (places.has(value)) note('twice', `list ${key} has ${value} at ${places.get(value)} and ${place}`)
    else places.set(value, place)
  })
  const sent = new Map(appends.map((append) => [append.value, append]))
  for (const value of places.keys()) {
    const append = sent.get(value)
    if (append === undefined) note('ghost', `list ${key} has ${value}, which no client sent`)
    else if (append.outcome === 'failed') note('ghost', `list ${key} has ${value}, which was rolled back`)
  }
  // How long the list was known to be, at the least, from when on.
  const known: { readonly fromMs: number; readonly count: number }[] = []
  for (const { value, outcome, endedMs } of appends) {
    if (outcome !== 'acknowledged') continue
    const place = places.get(value)
    if (place === undefined) note('lost', `list ${key} lacks ${value}, which was acknowledged`)
    else known.push({ fromMs: endedMs, count: place + 1 })
  }
  for (const { items, endedMs } of reads) {
    const at = items.findIndex((value, place) => list[place] !== value)
    if (at >= 0)
      note(
        'torn read',
        `a client read ${items[at]} at ${at} of list ${key}, where it has ${list[at] ?? 'nothing'}`,
      )
    else known.push({ fromMs: endedMs, count: items.length })
  }
  const atLeast = growingFloor(known)
  for (const { items, beganMs } of reads) {
    const floor = atLeast(beganMs)
    if (items.length < floor)
      note('went back', `a client read ${items.length} items of list ${key}, which had ${floor} before`)
  }
  for (const { value, beganMs } of appends) {
    const place = places.get(value)
    if (place !== undefined && place < atLeast(beganMs))
      note('went back', `${value} is at ${place} of list ${key}, which had more before it was sent`)
  }
  return anomalies
}

/** The greatest count that was known strictly before a time. */
function growingFloor(
  known: readonly { readonly fromMs: number; readonly count: number }[],
): (timeMs: number) => number {
  const sorted = known.toSorted((a, b) => a.fromMs - b.fromMs)
  const floors: number[] = []
  for (const { count } of sorted) floors.push(Math.max(count, floors.at(-1) ?? 0))
  return (timeMs) => {
    let [low, high] = [0, sorted.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((sorted[middle]?.fromMs ?? Infinity) < timeMs) low = middle + 1
      else high = middle
    }
    return low === 0 ? 0 : (floors[low - 1] as number)
  }
}
