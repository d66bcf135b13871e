/** One run: clients, a fault every few seconds, the checks. */
import { setTimeout as delay } from 'node:timers/promises'
import { describeError } from '@understory/base'
import { seededRng } from '@understory/env'
import type { Rng } from '@understory/env'
import { countWithin, firstAfter, gapsWithin, without } from './availability.ts'
import type { Interval } from './availability.ts'
import { FAULTS } from './faults.ts'
import type { FaultKind } from './faults.ts'
import { checkHistory } from './history.ts'
import { TENANT } from './lab.ts'
import type { Lab } from './lab.ts'
import { Workload, checkLedger, prepareDatabase, readLists } from './workload.ts'
import type { LedgerCheck } from './workload.ts'

const HOLD_MS_MIN = 800
const HOLD_MS_MAX = 4_000
const QUIET_MS_MAX = 1_500
/** Answers that were on their way when a majority was lost still arrive. */
const SETTLE_MS = 1_000
const GAP_SHOWN_MS = 250
const EXAMPLES_MAX = 5

export interface RunOptions {
  readonly seconds: number
  readonly seed: number
  readonly clients: number
  /** Longest time without a commit while a majority is there. */
  readonly gapSeconds: number
  /** Longest time until a lost compute takes commits again, and until everything is as before a fault. */
  readonly recoverySeconds: number
  /** Only kinds whose name contains it. */
  readonly only?: string | undefined
  readonly say: (line: string) => void
  readonly signal: AbortSignal
}

export interface FaultRecord {
  readonly name: string
  readonly target: string
  readonly effect: FaultKind['effect']
  readonly struckMs: number
  readonly healedMs: number
  readonly recoveredMs: number
  /** Longest time without a commit from the strike until everything was as before. */
  readonly gapMs: number
  /** From the strike, or where a majority was lost from the healing, until the next commit. */
  readonly backMs: number
}

export interface RunReport {
  readonly seed: number
  readonly seconds: number
  readonly clients: number
  readonly faults: readonly FaultRecord[]
  readonly skipped: readonly { readonly name: string; readonly why: string }[]
  readonly ledger: LedgerCheck
  readonly ledgerChecks: number
  readonly appends: number
  readonly reads: number
  readonly lists: number
  readonly connectionsLost: number
  readonly longestGapMs: number
  readonly pages: number
  readonly differing: number
  /** Empty where everything held. */
  readonly violations: readonly string[]
}

export async function runChaos(lab: Lab, options: RunOptions): Promise<RunReport> {
  const { seconds, seed, say, signal } = options
  const rng = seededRng(seed)
  await prepareDatabase(lab.connectionString)
  const workload = new Workload({ ...options, connectionString: lab.connectionString, folder: lab.folder })
  const run = new Run(lab, workload, options)
  const startedMs = performance.now()
  try {
    const isWanted = ({ name }: FaultKind): boolean => name.includes(options.only ?? '')
    const wanted = FAULTS.filter(isWanted)
    const isPossible = ({ needs }: FaultKind): boolean => lab.missing.every(({ need }) => need !== needs)
    const deck = new Deck(wanted.filter(isPossible), rng)
    await delay(HOLD_MS_MIN)
    while (performance.now() - startedMs < seconds * 1_000 && !signal.aborted) {
      await run.strike(deck.draw(), rng)
      await delay(rng.below(QUIET_MS_MAX))
    }
    const endedMs = performance.now()
    say('ending the clients, checking')
    await workload.end()
    return await run.report(
      { fromMs: startedMs, toMs: endedMs },
      {
        skipped: wanted
          .filter((kind) => !isPossible(kind))
          .map(({ name, needs }) => ({
            name,
            why: lab.missing.find(({ need }) => need === needs)?.why ?? '',
          })),
      },
    )
  } finally {
    await workload.end()
  }
}

/** Every kind once, in an order drawn again each time, so that a short run has seen most. */
class Deck {
  readonly #kinds: readonly FaultKind[]
  readonly #rng: Rng
  #left: FaultKind[] = []

  constructor(kinds: readonly FaultKind[], rng: Rng) {
    this.#kinds = kinds
    this.#rng = rng
  }

  draw(): FaultKind {
    if (this.#left.length === 0) this.#left = [...this.#kinds]
    return this.#left.splice(this.#rng.below(this.#left.length), 1)[0] as FaultKind
  }
}

class Run {
  readonly #lab: Lab
  readonly #workload: Workload
  readonly #options: RunOptions
  readonly #faults: Omit<FaultRecord, 'gapMs' | 'backMs'>[] = []
  readonly #violations: string[] = []
  #ledgerChecks = 0

  constructor(lab: Lab, workload: Workload, options: RunOptions) {
    this.#lab = lab
    this.#workload = workload
    this.#options = options
  }

  #violated(text: string): void {
    this.#violations.push(text)
    this.#options.say(`VIOLATION: ${text}`)
  }

  async strike(kind: FaultKind, rng: Rng): Promise<void> {
    const usualMs = HOLD_MS_MIN + rng.below(HOLD_MS_MAX - HOLD_MS_MIN)
    const holdMs = kind.holdMs ?? usualMs
    const { recoverySeconds, say, signal } = this.#options
    const struckMs = performance.now()
    const lostBefore = this.#workload.connectionsLost
    const struck = await kind.strike(this.#lab, rng).catch((error: unknown) => {
      this.#violated(`${kind.name} could not be done: ${describeError(error)}`)
      return undefined
    })
    if (struck === undefined) return
    const { target, heal } = struck
    say(`${kind.name}: ${target}`)
    const lostMs = performance.now()
    await delay(holdMs, undefined, { signal }).catch(() => undefined)
    if (kind.effect === 'stop')
      this.#noCommits({ fromMs: lostMs + SETTLE_MS, toMs: performance.now() }, target)
    await heal().catch((error: unknown) => {
      this.#violated(`${kind.name} (${target}) could not be healed: ${describeError(error)}`)
    })
    const healedMs = performance.now()
    await this.#commitAgain(`${kind.name} (${target})`)
    await this.#lab.recovered(recoverySeconds * 1_000).catch((error: unknown) => {
      this.#violated(`${kind.name} (${target}): ${describeError(error)}`)
    })
    const recoveredMs = performance.now()
    this.#faults.push({ name: kind.name, effect: kind.effect, target, struckMs, healedMs, recoveredMs })
    const lost = this.#workload.connectionsLost - lostBefore
    if (kind.effect === 'adopt' && lost > 0) this.#violated(`${kind.name}: ${lost} connections were lost`)
    if (kind.effect === 'compute' || kind.effect === 'adopt') await this.#checkLedger()
  }

  #noCommits(within: Interval, target: string): void {
    const count = countWithin(this.#workload.commitsMs, within)
    if (count > 0) this.#violated(`${count} commits were acknowledged without a majority (${target})`)
  }

  async #commitAgain(what: string): Promise<void> {
    const { recoverySeconds } = this.#options
    const { commitsMs } = this.#workload
    const count = commitsMs.length
    const deadlineMs = performance.now() + recoverySeconds * 1_000
    while (commitsMs.length === count) {
      if (performance.now() > deadlineMs) {
        this.#violated(`${what}: no commit within ${recoverySeconds} s of the healing`)
        return
      }
      await delay(20)
    }
  }

  async #checkLedger(): Promise<LedgerCheck> {
    const check = await this.#lab.withSql((client) => checkLedger(client, this.#lab.folder))
    this.#ledgerChecks++
    for (const [what, found] of [
      ['acknowledged commits lost', check.lost],
      ['ghosts', check.ghosts],
    ] as const)
      if (found.length > 0)
        this.#violated(`${found.length} ${what}: ${found.slice(0, EXAMPLES_MAX).join(', ')}`)
    return check
  }

  async report(whole: Interval, { skipped }: Pick<RunReport, 'skipped'>): Promise<RunReport> {
    const { commitsMs, appends, reads, surprises, connectionsLost } = this.#workload
    const { seed, clients, gapSeconds, recoverySeconds } = this.#options
    const ledger = await this.#checkLedger()
    const lists = await this.#lab.withSql(readLists)
    const anomalies = checkHistory({ appends, reads }, lists)
    for (const { kind, text } of anomalies.slice(0, EXAMPLES_MAX)) this.#violated(`${kind}: ${text}`)
    if (anomalies.length > EXAMPLES_MAX) this.#violated(`${anomalies.length} anomalies of the lists in all`)
    for (const text of new Set(surprises)) this.#violated(`a client met an unexpected error: ${text}`)

    const released = this.#faults.flatMap((fault) => {
      if (fault.effect === 'continue') return []
      if (fault.effect === 'stop') return [{ fromMs: fault.struckMs, toMs: fault.healedMs }]
      return [{ fromMs: fault.struckMs, toMs: this.#commitAfterLoss(fault.struckMs, whole.toMs) }]
    })
    const gaps = gapsWithin(commitsMs, without(whole, released), GAP_SHOWN_MS)
    for (const { fromMs, toMs, lengthMs } of gaps) {
      if (lengthMs <= gapSeconds * 1_000) break
      const during = this.#faults.filter(
        ({ struckMs, recoveredMs }) => struckMs < toMs && recoveredMs > fromMs,
      )
      const names = during.map(({ name, target }) => `${name}: ${target}`).join('; ') || 'no fault'
      this.#violated(`no commit for ${(lengthMs / 1_000).toFixed(1)} s with a majority there (${names})`)
    }
    for (const { fromMs, toMs } of released) {
      if (toMs - fromMs > recoverySeconds * 1_000)
        this.#violated(`commits were away for ${((toMs - fromMs) / 1_000).toFixed(1)} s`)
    }
    const { differing, differences, pagesIndependent, pagesFromStorage } =
      await this.#lab.client.verifyTimeline(TENANT)
    for (const text of differences.slice(0, EXAMPLES_MAX))
      this.#violated(`storage differs: ${JSON.stringify(text)}`)
    if (differing > 0n) this.#violated(`${differing} pages differ from storage`)
    return {
      seed,
      clients,
      seconds: (whole.toMs - whole.fromMs) / 1_000,
      faults: this.#faults.map((fault) => this.#measured(fault)),
      skipped,
      ledger,
      ledgerChecks: this.#ledgerChecks,
      appends: appends.length,
      reads: reads.length,
      lists: lists.size,
      connectionsLost,
      longestGapMs: gaps[0]?.lengthMs ?? 0,
      pages: Number(pagesIndependent + pagesFromStorage),
      differing: Number(differing),
      violations: this.#violations,
    }
  }

  /** The end of the silence that began with the loss: commits that were on their way may still have come. */
  #commitAfterLoss(struckMs: number, endMs: number): number {
    const window = { fromMs: struckMs, toMs: Math.min(endMs, struckMs + 600_000) }
    const fault = this.#faults.find((item) => item.struckMs === struckMs)
    const until = { ...window, toMs: Math.min(window.toMs, (fault?.recoveredMs ?? window.toMs) + 1_000) }
    return gapsWithin(this.#workload.commitsMs, [until], 0)[0]?.toMs ?? struckMs
  }

  #measured(fault: Omit<FaultRecord, 'gapMs' | 'backMs'>): FaultRecord {
    const { commitsMs } = this.#workload
    const around = [{ fromMs: fault.struckMs, toMs: fault.recoveredMs }]
    const gapMs = gapsWithin(commitsMs, around, 0)[0]?.lengthMs ?? 0
    const isFromStrike = ['compute', 'adopt', 'wait'].includes(fault.effect)
    const fromMs = isFromStrike ? fault.struckMs : fault.healedMs
    const backAtMs = isFromStrike
      ? this.#commitAfterLoss(fromMs, fault.recoveredMs)
      : (firstAfter(commitsMs, fromMs) ?? fromMs)
    return { ...fault, gapMs, backMs: backAtMs - fromMs }
  }
}
