/**
 * Looks after the WAL of one replica: an open timeline is read through, once soon after a start and then once a day,
 * because WAL that is seldom read is damaged unseen; a timeline that is closed for damage is repaired from its peers
 * and opened. While it is being repaired it is closed: it neither votes nor gives out its WAL.
 */
import { Loop, ProblemReport } from '@understory/actor'
import type { Child, Semaphore } from '@understory/actor'
import { isErrorCode } from '@understory/base'
import type { Clock, Disk, Rng } from '@understory/env'
import { everyMember } from '@understory/protocol'
import type { ClientContext } from '@understory/rpc'
import { PeerSource } from '../recovery/peer-source.ts'
import { MembershipStore } from '../timeline/membership-store.ts'
import { readMembershipFile } from '../timeline/membership-file.ts'
import { runRounds } from '../timeline/replica.ts'
import type { ChildFactory, Replica } from '../timeline/replica.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { isDamage } from '../timeline/wal-check.ts'
import { repairWal } from './wal-repair.ts'

const RETRY_MS = 1_000
const CHECK_EVERY_MS = 24 * 3_600_000
/** After each MiB: a check is not to be felt by commits. */
const CHECK_PAUSE_MS = 10

export interface ScrubberParts {
  /** The context for calls to peers. */
  readonly rpc: ClientContext
  readonly disk: Disk
  /** Of this safekeeper. */
  readonly nodeId: string
  readonly clock: Clock
  readonly rng: Rng
  /** Of all timelines of the process: one is read through at a time. */
  readonly turns: Semaphore
}

export class Scrubber implements Child {
  readonly #replica: Replica
  readonly #parts: ScrubberParts
  readonly #loop: Loop
  readonly #problems: ProblemReport
  #checkedMs = -Infinity
  #seenDamageCount = 0
  readonly run: (stop: AbortSignal) => Promise<void>

  constructor(replica: Replica, parts: ScrubberParts) {
    const { clock, rng } = parts
    const { log } = replica
    this.#replica = replica
    this.#parts = parts
    this.#problems = new ProblemReport({ clock, log, event: 'timeline_not_repaired' })
    this.#loop = new Loop({
      clock,
      rng,
      pauseMs: RETRY_MS,
      problems: new ProblemReport({ clock, log, event: 'scrub_failed' }),
      round: (stop) => this.#round(stop),
    })
    this.run = runRounds(replica, this.#loop)
  }

  static factory =
    (parts: ScrubberParts): ChildFactory =>
    (replica) => ({ name: 'scrub', child: new Scrubber(replica, parts) })

  /** Returns how long until the next is due. */
  async #round(stop: AbortSignal): Promise<number> {
    const { clock, turns } = this.#parts
    const { damageCount } = this.#replica
    if (damageCount !== this.#seenDamageCount) this.#checkedMs = -Infinity
    this.#seenDamageCount = damageCount
    const dueMs = this.#checkedMs + CHECK_EVERY_MS
    const { state } = this.#replica
    if (state.kind === 'open' && clock.nowMs() >= dueMs)
      await turns.run(() => this.#check(state.timeline, stop), stop)
    const { state: now } = this.#replica
    if (now.kind === 'closed' && isDamage(now.failure))
      return (await turns.run(() => this.#repair(stop), stop)) ? 0 : RETRY_MS
    // A change of the replica begins the next round at once.
    return now.kind === 'open'
      ? Math.max(0, this.#checkedMs + CHECK_EVERY_MS - clock.nowMs())
      : CHECK_EVERY_MS
  }

  async #check(timeline: Timeline, stop: AbortSignal): Promise<void> {
    const { clock } = this.#parts
    this.#checkedMs = clock.nowMs()
    try {
      await timeline.check(() => clock.sleep(CHECK_PAUSE_MS, stop))
    } catch (error) {
      if (stop.aborted) return
      if (error instanceof Error && isDamage(error)) await this.#replica.close(error)
      else if (!isErrorCode(error, 'cancelled')) this.#replica.log.warn('wal_not_checked', { error })
    }
  }

  /** Whether it is open again. */
  async #repair(stop: AbortSignal): Promise<boolean> {
    const { rpc, disk, nodeId } = this.#parts
    const { ref, folder, log } = this.#replica
    const sources: PeerSource[] = []
    try {
      const membership = await readMembershipFile(disk, MembershipStore.pathIn(folder))
      const peers = membership === undefined ? [] : everyMember(membership)
      for (const peer of peers) if (peer.nodeId !== nodeId) sources.push(new PeerSource(rpc, peer, ref))
      const bytes = await repairWal({ disk, folder, sources, signal: stop, log })
      await this.#replica.reopen()
      log.warn('timeline_repaired', { bytes })
      this.#problems.clear()
      return true
    } catch (error) {
      if (!stop.aborted) this.#problems.report(error)
      return false
    } finally {
      for (const source of sources) source.close()
    }
  }
}
