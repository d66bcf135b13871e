/**
 * Looks after the timelines of this safekeeper: those that did not open for damage are mended from peers and opened;
 * those that are open are read through, once soon after a start and then once a day, because what is read seldom is damaged
 * unseen. While a timeline is being mended it is closed: it neither votes nor gives out its WAL.
 */
import { Loop, ProblemReport } from '@understory/actor'
import { isErrorCode } from '@understory/base'
import type { Clock, Disk, Log, Rng } from '@understory/env'
import { everyMember } from '@understory/protocol'
import type { ClientContext, TimelineRef } from '@understory/rpc'
import { readMembershipFile } from '../timeline/membership-file.ts'
import { PeerSource } from '../recovery/peer-source.ts'
import { repairWal } from './repair.ts'
import { MembershipStore } from '../timeline/membership-store.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { Timelines } from '../timeline/timelines.ts'
import { isDamage } from '../timeline/wal-check.ts'

const LOOK_MS = 1_000
const CHECK_EVERY_MS = 24 * 3_600_000
/** After each MiB: a check is not to be felt by commits. */
const CHECK_PAUSE_MS = 10

export interface RepairsParts {
  readonly timelines: Timelines
  /** What peers are called with. */
  readonly rpc: ClientContext
  readonly disk: Disk
  /** Of this safekeeper. */
  readonly nodeId: string
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

export class Repairs {
  readonly #parts: RepairsParts
  readonly #checkedMs = new Map<string, number>()
  readonly #problems = new Map<string, ProblemReport>()
  readonly #loop: Loop

  constructor(parts: RepairsParts) {
    this.#parts = parts
    const { clock, rng, log, timelines } = parts
    this.#loop = new Loop({
      clock,
      rng,
      pauseMs: LOOK_MS,
      problems: new ProblemReport({ clock, log, event: 'repairs_failed' }),
      round: () => this.#round(),
    })
    timelines.onDamage = (ref) => {
      this.#checkedMs.delete(ref.timelineId)
      this.#loop.wake()
    }
  }

  start(): void {
    this.#loop.start()
  }

  async stop(): Promise<void> {
    await this.#loop.stop()
  }

  async #round(): Promise<void> {
    const { timelines } = this.#parts
    for (const { ref, failure } of timelines.failed()) if (isDamage(failure)) await this.#repair(ref)
    for (const ref of timelines.list()) await this.#checkIfDue(ref)
  }

  async #checkIfDue(ref: TimelineRef): Promise<void> {
    const { timelines, clock } = this.#parts
    const timeline = timelines.find(ref)
    const sinceMs = clock.nowMs() - (this.#checkedMs.get(ref.timelineId) ?? -Infinity)
    if (timeline === undefined || sinceMs < CHECK_EVERY_MS || this.#loop.stopped.aborted) return
    this.#checkedMs.set(ref.timelineId, clock.nowMs())
    const damage = await this.#check(timeline, ref)
    if (damage === undefined) return
    await timelines.shut(ref, damage)
    await this.#repair(ref)
  }

  /** The damage, or undefined. */
  async #check(timeline: Timeline, ref: TimelineRef): Promise<Error | undefined> {
    const { clock } = this.#parts
    try {
      await timeline.check(() => clock.sleep(CHECK_PAUSE_MS, this.#loop.stopped))
      return undefined
    } catch (error) {
      if (error instanceof Error && isDamage(error)) return error
      if (!isErrorCode(error, 'cancelled')) this.#report(ref, 'wal_not_checked', error)
      return undefined
    }
  }

  async #repair(ref: TimelineRef): Promise<void> {
    const { timelines, rpc, disk, nodeId } = this.#parts
    const log = this.#log(ref)
    const folder = timelines.folderOf(ref)
    const sources: PeerSource[] = []
    try {
      const membership = await readMembershipFile(disk, MembershipStore.pathIn(folder))
      const peers = membership === undefined ? [] : everyMember(membership)
      for (const peer of peers) if (peer.nodeId !== nodeId) sources.push(new PeerSource(rpc, peer, ref))
      const bytes = await repairWal({ disk, folder, sources, signal: this.#loop.stopped, log })
      await timelines.reopen(ref)
      log.warn('timeline_repaired', { bytes })
      this.#problems.delete(ref.timelineId)
    } catch (error) {
      if (!this.#loop.stopped.aborted) this.#report(ref, 'timeline_not_repaired', error)
    } finally {
      for (const source of sources) source.close()
    }
  }

  #report(ref: TimelineRef, event: string, error: unknown): void {
    const { clock } = this.#parts
    const known = this.#problems.get(ref.timelineId)
    const problems = known ?? new ProblemReport({ clock, log: this.#log(ref), event })
    this.#problems.set(ref.timelineId, problems)
    problems.report(error)
  }

  #log({ tenantId, timelineId }: TimelineRef): Log {
    return this.#parts.log.child({ tenant: tenantId, timeline: timelineId })
  }
}
