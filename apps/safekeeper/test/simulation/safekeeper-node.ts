/** The safekeeper's own timelines, files and control file over a simulated disk, as one node of the simulation. */
import {
  BugError,
  UnderstoryError,
  advance,
  assert,
  describeError,
  minLsn,
  fail,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import { historyUpTo, lastTermStart } from '@understory/consensus'
import type { AcceptorInput } from '@understory/consensus'
import type { Log } from '@understory/env'
import { XLOG_BLCKSZ, parseWalFileName, walFileName } from '@understory/postgres/wal'
import { SimDisk, noArmedFaults } from '@understory/simulation'
import type { AcceptorNode, DiskProcess, NodeHost, NodeStatus } from '@understory/simulation'
import { decodeControlFile } from '../../src/timeline/control-file.ts'
import { catchUp } from '../../src/recovery/recovery.ts'
import type { WalSource } from '../../src/recovery/recovery.ts'
import type { ProposerSession } from '@understory/consensus/driver'
import { unlimitedQuota } from '../../src/timeline/node-quota.ts'
import type { Timeline } from '../../src/timeline/timeline.ts'
import { Timelines } from '../../src/timeline/timelines.ts'
import { SIMULATED_POSTGRES, postgresFormat } from './postgres-wal.ts'

const REF = { tenantId: '0'.repeat(31) + '1', timelineId: '0'.repeat(31) + '2' }
const FOLDER = `/data/timelines/${REF.tenantId}/${REF.timelineId}`
const { walSegmentBytes: segmentBytes, pgTimelineId } = SIMULATED_POSTGRES
const pathOf = (segment: number): string => `${FOLDER}/${walFileName(pgTimelineId, segment, segmentBytes)}`

interface Life extends DiskProcess {
  timeline: Timeline | undefined
  isCatchingUp: boolean
}
interface Conversation {
  readonly session: ProposerSession
  /** Messages are taken one after another. */
  tail: Promise<void>
  isOver: boolean
}

export class SafekeeperNode implements AcceptorNode {
  readonly name: string
  readonly armed = noArmedFaults()
  readonly #host: NodeHost
  readonly #disk: SimDisk
  #life: Life | undefined
  #conversations = new Map<ProposerSession, Conversation>()

  constructor(name: string, host: NodeHost) {
    this.name = name
    this.#host = host
    const { schedule, rng, counts } = host
    this.#disk = new SimDisk({
      schedule,
      rng,
      counts,
      armed: this.armed,
      crash: () => {
        this.kill(this.armed.isPowerLost)
        host.ended(this)
      },
      mayFlip: (path, offset, isWholeFile) =>
        /\/control(\.2)?$/.test(path) ||
        (!isPageFlag(offset) && (!isWholeFile || this.#mayFlip(path, offset))),
    })
  }

  get isUp(): boolean {
    return this.#life?.timeline !== undefined
  }

  get isCatchingUp(): boolean {
    return this.#life?.isCatchingUp === true
  }

  start(): void {
    if (this.#life !== undefined) return
    const life: Life = Object.assign(this.#disk.process(), { timeline: undefined, isCatchingUp: false })
    this.#life = life
    this.#host.schedule.stir()
    this.#open(life).catch((error: unknown) => {
      if (error instanceof BugError) this.#host.schedule.fail(error)
      this.#host.say(() => `${this.name} does not open: ${describeError(error)}`)
      this.#end(life)
    })
  }

  async #open(life: Life): Promise<void> {
    const { schedule, rng } = this.#host
    const { clock } = schedule
    const { disk } = life
    const quota = unlimitedQuota(clock)
    const timelines = new Timelines({ disk, log: this.#log(life), clock, rng, dataDir: '/data', quota })
    await timelines.openAll()
    await timelines.create(REF, SIMULATED_POSTGRES, postgresFormat.startLsn)
    assert(
      this.#disk.leftovers().length === 0,
      () => `${this.name} keeps what a crash left: ${this.#disk.leftovers().join(', ')}`,
    )
    life.timeline = timelines.get(REF)
    this.#host.say(() => `${this.name} is up: ${this.status()?.text}`)
    if (rng.below(3) > 0) schedule.at(rng.below(120), () => this.#catchUp(life))
  }

  /** Catches up from the others that are up, as a node does that comes back or is new. */
  #catchUp(life: Life): void {
    const { timeline } = life
    const host = this.#host
    const { schedule, counts } = host
    if (life.isDead || timeline === undefined) return
    const others = [...this.#host.nodes.values()].filter((node) => node !== this)
    const sources = others.flatMap((node) =>
      node instanceof SafekeeperNode ? [this.#noting(node.#source())] : [],
    )
    const { signal } = new AbortController()
    const before = timeline.state.flushLsn
    schedule.stir()
    life.isCatchingUp = true
    catchUp(timeline, { sources, signal, log: this.#log(life) })
      .finally(() => {
        life.isCatchingUp = false
      })
      .then((bytes) => {
        if (life.isDead || bytes === 0) return
        host.say(() => `${this.name} caught up from ${before}: ${this.status()?.text}`)
        counts.other('caught up from peers')
        host.stepped(this)
      })
      .catch((error: unknown) => {
        if (life.isDead) return
        if (!(error instanceof UnderstoryError)) schedule.fail(error)
        host.say(() => `${this.name} does not catch up: ${describeError(error)}`)
      })
  }

  #noting(source: WalSource): WalSource {
    const status: WalSource['status'] = async (signal) => {
      const seen = await source.status(signal)
      this.#host.recovers(this, lastTermStart(historyUpTo(seen.history, seen.commitLsn)).term)
      return seen
    }
    return { ...source, status }
  }

  /** This node as another one's donor, a message or a few away. */
  #source(): WalSource {
    const { schedule, rng } = this.#host
    const living = (): Timeline => {
      schedule.stir()
      if (this.#life?.timeline === undefined) throw fail('unavailable', `${this.name} is not up`)
      return this.#life.timeline
    }
    return {
      name: this.name,
      status: async () => {
        await schedule.clock.sleep(1 + rng.below(10))
        const { identity, timelineStartLsn, state, commitLsn } = living()
        return {
          identity,
          timelineStartLsn,
          history: state.control.history,
          commitLsn,
          oldestLsn: timelineStartLsn,
        }
      },
      read: async function* (startLsn, endLsn) {
        for (let at = startLsn; at < endLsn;) {
          const to = minLsn(endLsn, advance(at, 1 + rng.below(20_000)))
          await schedule.clock.sleep(rng.below(10))
          yield await living().read(at, to)
          at = to
        }
      },
    }
  }

  /** A timeline that failed is of no use until the process starts again. */
  #log(life: Life): Log {
    const quiet = (): void => undefined
    const error: Log['error'] = (event, fields) => {
      this.#host.say(() => `${this.name} logs ${event}: ${String(fields?.['reason'])}`)
      if (life.timeline?.failure instanceof BugError) this.#host.schedule.fail(life.timeline.failure)
      if (event === 'timeline_failed') this.#end(life)
    }
    const log: Log = { error, warn: quiet, info: quiet, debug: quiet, child: () => log }
    return log
  }

  #end(life: Life): void {
    if (life.isDead) return
    this.kill(false)
    this.#host.ended(this)
  }

  kill(isPowerLost: boolean): void {
    if (this.#life !== undefined) this.#life.isDead = true
    this.#life = undefined
    this.#conversations = new Map()
    this.armed.crashAfterEffects = 0
    if (isPowerLost) this.#disk.losePower()
  }

  handle(session: ProposerSession, input: AcceptorInput): void {
    const life = this.#life
    const timeline = life?.timeline
    if (life === undefined || timeline === undefined) return
    let conversation = this.#conversations.get(session)
    try {
      conversation ??= this.#begin(life, timeline, session)
    } catch (error) {
      return session.close(error)
    }
    if (conversation.isOver) return
    this.#host.schedule.stir()
    const { session: own } = conversation
    const talk = conversation
    talk.tail = talk.tail
      .then(() => (life.isDead || talk.isOver ? undefined : timeline.handle(own, input)))
      .then(() => {
        if (!life.isDead) this.#host.stepped(this)
      })
      .catch((error: unknown) => {
        if (life.isDead) return
        if (!(error instanceof UnderstoryError)) this.#host.schedule.fail(error)
        own.close(error)
      })
  }

  #begin(life: Life, timeline: Timeline, session: ProposerSession): Conversation {
    const own: ProposerSession = {
      nodeId: session.nodeId,
      deliver: (answer) => {
        if (life.isDead) return
        try {
          this.#host.stepped(this)
          session.deliver(answer)
        } catch (error) {
          this.#host.schedule.fail(error)
        }
      },
      close: (error) => {
        if (life.isDead || conversation.isOver) return
        conversation.isOver = true
        timeline.detach(own)
        session.close(error)
      },
    }
    const conversation: Conversation = { session: own, tail: Promise.resolve(), isOver: false }
    timeline.attach(own)
    this.#conversations.set(session, conversation)
    return conversation
  }

  leave(session: ProposerSession): void {
    const conversation = this.#conversations.get(session)
    if (conversation === undefined) return
    conversation.isOver = true
    this.#life?.timeline?.detach(conversation.session)
    this.#conversations.delete(session)
  }

  read(term: number, startLsn: Lsn, endLsn: Lsn, done: (wal: Uint8Array | undefined) => void): void {
    const life = this.#life
    const timeline = life?.timeline
    if (life === undefined || timeline === undefined || timeline.state.flushLsn <= startLsn)
      return done(undefined)
    this.#host.schedule.stir()
    timeline
      .readInTerm(term, startLsn, minLsn(endLsn, timeline.state.flushLsn))
      .then(done, () => done(undefined))
      .catch((error: unknown) => this.#host.schedule.fail(error))
  }

  status(): NodeStatus | undefined {
    const state = this.#life?.timeline?.state
    if (state === undefined) return undefined
    const { control, flushLsn, commitLsn } = state
    const { membershipGeneration, term } = control
    const history = historyUpTo(control.history, flushLsn)
    const terms = history.map((entry) => `${entry.term}@${entry.startLsn}`).join(' ')
    return {
      membershipGeneration,
      term,
      lastLogTerm: lastTermStart(history).term,
      flushLsn,
      commitLsn,
      text: `generation ${membershipGeneration} term ${term} flush ${flushLsn} commit ${commitLsn} [${terms}]`,
    }
  }

  peek(startLsn: Lsn, endLsn: Lsn): Uint8Array {
    return this.#bytes(startLsn, endLsn, 'cache')
  }

  isDurable(startLsn: Lsn, wal: Uint8Array): boolean {
    const endLsn = (startLsn + wal.length) as Lsn
    return Buffer.compare(this.#bytes(startLsn, endLsn, 'medium'), wal) === 0
  }

  /** Bytes that files lack are zeros. */
  #bytes(startLsn: Lsn, endLsn: Lsn, where: 'cache' | 'medium'): Uint8Array {
    const found = new Uint8Array(endLsn - startLsn)
    for (let at = startLsn; at < endLsn;) {
      const segment = segmentOf(at, segmentBytes)
      const toLsn = minLsn(endLsn, segmentStart(segment + 1, segmentBytes))
      const from = at - segmentStart(segment, segmentBytes)
      const bytes = this.#disk.bytesOf(pathOf(segment), where)?.subarray(from, from + toLsn - at)
      if (bytes !== undefined) found.set(bytes, at - startLsn)
      at = toLsn
    }
    return found
  }

  /**
   * Looking for the end of the log, a start reads what may never have been synced too, and there a flipped bit looks
   * like a torn write: what is promised is that damage before the recorded commit position is found.
   */
  #mayFlip(path: string, offset: number): boolean {
    const name = path.slice(FOLDER.length + 1)
    const segment = name.length === 24 ? parseWalFileName(name, segmentBytes) : undefined
    const control = this.#disk.bytesOf(`${FOLDER}/control`, 'cache')
    if (segment === undefined || control === undefined) return false
    const { commitLsn } = decodeControlFile(control, path).acceptor
    return segment.startLsn + offset < commitLsn
  }
}

/** xlp_info of a page header: XLP_BKP_REMOVABLE in it is under no checksum, and is not read here. */
const isPageFlag = (offset: number): boolean => offset % XLOG_BLCKSZ === 2 || offset % XLOG_BLCKSZ === 3
