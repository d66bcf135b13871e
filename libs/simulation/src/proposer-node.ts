/** A compute: the driver that production runs, over the simulated network, and a Postgres that writes. */
import type { Lsn } from '@understory/base'
import type { ElectionKind, Membership } from '@understory/consensus'
import { LeadLostError, ProposerDriver, isFinal } from '@understory/consensus/driver'
import type { DriverLimits, DriverObserver, Loss } from '@understory/consensus/driver'
import { seededRng, silentLog } from '@understory/env'
import { Violation } from './checks.ts'
import { proposerTransition } from './coverage.ts'
import { DriverChecks } from './driver-checks.ts'
import type { ProposerHost } from './proposer-host.ts'
import { SimTransport, knownOf, nameAt } from './sim-transport.ts'
import { SimLog } from './wal.ts'

/** Chunks that Postgres may send in one turn. */
const PIECES_MAX = 3

export class ProposerNode {
  readonly name: string
  readonly #host: ProposerHost
  #driver: ProposerDriver | undefined
  #transport: SimTransport | undefined
  #checks: DriverChecks | undefined
  /** Rises with each start: what belongs to an earlier life is dropped. */
  #life = 0
  /** The log of its Postgres. */
  #local: SimLog
  #handedLsn: Lsn
  #livingTerm: number | undefined
  #ownTerm: number | undefined
  #hasLost = false
  #isWriting = false
  #isHandingOver = false
  /** The membership it starts with: read again when it turns out to be old. */
  #known: Membership

  constructor(name: string, host: ProposerHost) {
    this.name = name
    this.#host = host
    this.#known = host.membership
    this.#local = new SimLog(host.format.startLsn)
    this.#handedLsn = host.format.startLsn
  }

  get phase(): string | undefined {
    return this.#driver?.state.phase
  }

  /** With `isPostgresDead` there is nothing to adopt. */
  restart(isPostgresDead: boolean): void {
    const { schedule, rng, isCalm, format, checks } = this.#host
    this.stop()
    if (isPostgresDead) this.#livingTerm = undefined
    const life = this.#life
    if (isCalm || rng.below(4) > 0) this.#known = this.#host.membership
    const { recordBytesMax } = this.#host
    const limits = drawLimits(this.#host)
    const contactTimeoutMs = isCalm ? 2_000 : 2 * limits.heartbeatMs + 100 + rng.below(2_000)
    const ownTerm = rng.below(4) === 0 ? this.#ownTerm : undefined
    const driverChecks = new DriverChecks({
      name: this.name,
      ownTerm,
      limits,
      contactTimeoutMs,
      // Chunks of one turn, a record whose end is not known yet, and what is kept for those that lag.
      slackBytes: (PIECES_MAX * 3 + 8 + 6) * recordBytesMax,
      recordEnds: checks.recordEnds,
      nowMs: () => schedule.nowMs,
      log: () => this.#local,
    })
    const transport = new SimTransport(this.name, this.#host, driverChecks)
    this.#checks = driverChecks
    this.#transport = transport
    const driver = new ProposerDriver({
      transport,
      clock: schedule.clock,
      rng: seededRng(rng.u32()),
      log: silentLog,
      defer: (work) => schedule.at(0, work),
      membership: knownOf(this.#known),
      timelineStartLsn: format.startLsn,
      livingTerm: this.#livingTerm,
      compareLocalWal: async (donor, _term, endLsn) => this.#isLocalWalOf(nameAt(donor), endLsn),
      ownTerm,
      rememberTerm: (term) => {
        this.#ownTerm = term
        driverChecks.remembered(term)
      },
      contactTimeoutMs,
      observer: this.#observer(life),
      limits,
      rules: {
        appendBytesMax: isCalm ? 4 * recordBytesMax : 1 + rng.below(2 * recordBytesMax),
        inFlightBytesMax: 1 + rng.below(8 * recordBytesMax),
        keptBytesMax: rng.below(6 * recordBytesMax),
      },
    })
    this.#driver = driver
    driver.lost.then((loss) => this.#lost(life, loss)).catch((error: unknown) => schedule.fail(error))
    schedule.at(rng.below(20), () => this.#work(life))
    if (!isCalm) schedule.at(300 + rng.below(2_500), () => this.#follow(life))
  }

  stop(): void {
    this.#life++
    this.#driver?.close()
    this.#checks?.over()
    this.#driver = undefined
    this.#hasLost = false
    this.#isWriting = false
    this.#isHandingOver = false
  }

  /** Reports a change of membership to a leader. */
  announceMembership(membership: Membership): void {
    this.#known = membership
    this.#driver?.changeMembership(knownOf(membership))
  }

  /** The driver's observer; a violation ends the run, and does not go through the driver. */
  #observer(life: number): DriverObserver {
    const { schedule, counts, checks } = this.#host
    const judge = (look: () => void): void => {
      // Promises of the driver settle.
      schedule.stir()
      try {
        look()
      } catch (error) {
        schedule.fail(error)
      }
    }
    const ignore = (): void => undefined
    return {
      received: ignore,
      pushed: ignore,
      sending: () => '',
      acknowledged: ignore,
      decided: ignore,
      begins: ignore,
      membershipChanged: ignore,
      committed: (lsn) =>
        judge(() => {
          counts.other('commits')
          const { term, options } = (this.#driver as ProposerDriver).state
          const isLost = (name: string): boolean => this.#host.isLost(name)
          const by = `${this.name}/${life}`
          checks.committedBy(by, term, this.#local, lsn, options.membership, this.#host.nodes, isLost)
        }),
      elected: (term, kind, startLsn) => judge(() => this.#elected(life, term, kind, startLsn)),
      lost: (reason) =>
        judge(() => {
          this.#hasLost = true
          this.#checks?.over()
          counts.other(`lost, ${reason}`)
        }),
      stepped: (before, input, after) => counts.transition(proposerTransition(before, input, after)),
    }
  }

  #elected(life: number, term: number, kind: ElectionKind, startLsn: Lsn): void {
    const { counts, checks, format, say, rng, schedule } = this.#host
    const driver = this.#driver as ProposerDriver
    this.#checks?.elected()
    const { donor, history } = driver.state
    const lastLogTerm = history.at(-2)?.term
    counts.other(`elected, ${kind}`)
    say(() => `${this.name} is elected in term ${term} at ${startLsn} with the log of ${donor}: ${kind}`)
    const voted = (this.#transport as SimTransport).votedLog(donor)
    const log = SimLog.from(format, voted.slice(0, startLsn - format.startLsn))
    checks.elected(`${this.name}/${life}`, term, log)
    if (kind === 'rebuild') this.#local = log.clone()
    else if (!this.#local.isEqualUpTo(log, startLsn))
      throw new Violation(`I4: ${this.name} adopts a Postgres with other WAL`)
    else if (this.#livingTerm !== lastLogTerm)
      throw new Violation(
        `I4: ${this.name} adopts a Postgres of term ${this.#livingTerm} after ${lastLogTerm}`,
      )
    this.#handedLsn = startLsn
    this.#livingTerm = term
    // A Postgres that is rebuilt is started once all that it is rebuilt from is committed; a new timeline writes at
    // once.
    this.#isWriting = rng.below(2) === 0
    driver
      .waitForCommit(startLsn)
      .then(() => this.#startCommitted(life, startLsn))
      .catch((error: unknown) => {
        if (!(error instanceof LeadLostError)) schedule.fail(error)
      })
  }

  #startCommitted(life: number, startLsn: Lsn): void {
    const { checks } = this.#host
    if (checks.committed.endLsn < startLsn)
      throw new Violation(`I1: ${this.name} learns that ${startLsn} is committed before it is`)
    if (this.#life === life) this.#isWriting = true
  }

  /** In doubt, as where the donor cannot be asked, they differ. */
  #isLocalWalOf(donor: string, endLsn: Lsn): boolean {
    const { schedule, rng, isCalm, format } = this.#host
    schedule.stir()
    const log = SimLog.from(format, (this.#transport as SimTransport).votedLog(donor))
    return this.#local.isEqualUpTo(log, endLsn) && (isCalm || rng.below(8) > 0)
  }

  #lost(life: number, loss: Loss): void {
    const { schedule, rng, isCalm, say } = this.#host
    if (this.#life !== life) return
    say(() => `${this.name} has lost: ${loss.kind}`)
    // Another compute follows, which has asked for no term yet.
    if (isFinal(loss)) this.#ownTerm = undefined
    if (loss.kind === 'staleMembership') {
      const newest = loss.membership?.generation ?? 0
      this.#known = this.#host.membershipOf(newest) ?? this.#host.membership
      return schedule.at(5 + rng.below(20), () => this.#follow(life))
    }
    schedule.at(20 + rng.below(isCalm ? 60 : 1_000), () => this.#follow(life))
  }

  #follow(life: number): void {
    if (this.#life === life) this.restart(this.#host.rng.below(10) < 3)
  }

  /** Postgres writes records and sends them, whole or in pieces. */
  #work(life: number): void {
    const { schedule, rng, checks, format, recordBytesMax } = this.#host
    const driver = this.#driver
    if (this.#life !== life || driver === undefined || this.#hasLost) return
    this.#checks?.look(driver)
    if (driver.state.phase === 'leader' && this.#isWriting) {
      for (let count = rng.below(3); count > 0; count--) {
        const size = rng.below(20) === 0 ? rng.below(recordBytesMax * 8) : rng.below(recordBytesMax)
        this.#local.addRecord(format, size, rng)
        checks.recordEnds.add(this.#local.endLsn)
      }
      if (!this.#isHandingOver) {
        schedule.stir()
        this.#handOver(life, driver).catch((error: unknown) => {
          if (!(error instanceof LeadLostError)) schedule.fail(error)
        })
      }
    }
    schedule.at(1 + rng.below(12), () => this.#work(life))
  }

  async #handOver(life: number, driver: ProposerDriver): Promise<void> {
    const { rng, recordBytesMax } = this.#host
    this.#isHandingOver = true
    for (let count = 1 + rng.below(PIECES_MAX); count > 0 && this.#life === life; count--) {
      const startLsn = this.#handedLsn
      const endLsn = Math.min(this.#local.endLsn, startLsn + 1 + rng.below(recordBytesMax * 3)) as Lsn
      if (endLsn === startLsn) break
      this.#handedLsn = endLsn
      await driver.push(startLsn, this.#local.slice(startLsn, endLsn), this.#local.recordEndAt(endLsn))
    }
    if (this.#life === life) this.#isHandingOver = false
  }
}

/** Short pauses and small buffers, so that a schedule meets them. */
function drawLimits({ rng, isCalm, recordBytesMax }: ProposerHost): DriverLimits {
  const bufferBytesMax = 1 + rng.below(12 * recordBytesMax)
  const fetchBytesMax = (isCalm ? 4 * recordBytesMax : 1) + rng.below(4 * recordBytesMax)
  if (isCalm) {
    const [heartbeatMs, reconnectMs, reconnectMsMax] = [200, 20, 100]
    return {
      heartbeatMs,
      reconnectMs,
      reconnectMsMax,
      newsMs: 5,
      bufferBytesMax,
      fetchBytesMax,
      donorWaitMs: 300,
    }
  }
  const reconnectMs = 5 + rng.below(60)
  return {
    heartbeatMs: 10 + rng.below(200),
    reconnectMs,
    reconnectMsMax: reconnectMs * (1 + rng.below(8)),
    newsMs: 1 + rng.below(20),
    bufferBytesMax,
    fetchBytesMax,
    donorWaitMs: rng.below(500),
  }
}
