/** Another safekeeper as a source of committed WAL. */
import { fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Member } from '@understory/protocol'
import { safekeeperClient } from '@understory/protocol/clients'
import type { SafekeeperClient } from '@understory/protocol/clients'
import type { ClientContext, TimelineRef } from '@understory/rpc'
import type { SourceStatus, WalSource } from './recovery.ts'

const STATUS_DEADLINE_MS = 2_000
/** A donor that answers but sends nothing is left for another. */
const SILENCE_MS_MAX = 20_000

export class PeerSource implements WalSource {
  readonly name: string
  readonly #member: Member
  readonly #timeline: TimelineRef
  readonly #client: SafekeeperClient

  constructor(rpc: ClientContext, member: Member, timeline: TimelineRef) {
    this.name = `safekeeper "${member.nodeId}"`
    this.#member = member
    this.#timeline = timeline
    this.#client = safekeeperClient(rpc, member.address, this.name)
  }

  async status(signal: AbortSignal): Promise<SourceStatus> {
    const options = { deadlineMs: STATUS_DEADLINE_MS, signal }
    const { nodeId, postgres, ...status } = await this.#client.walStatus(this.#timeline, options)
    if (nodeId !== this.#member.nodeId)
      throw fail('unavailable', `"${nodeId}" answers at the address of ${this.name}`)
    return { identity: postgres, ...status }
  }

  read(startLsn: Lsn, endLsn: Lsn, signal: AbortSignal): AsyncGenerator<Uint8Array, void, void> {
    const options = { signal, silenceMsMax: SILENCE_MS_MAX }
    return this.#client.readWal(this.#timeline, startLsn, endLsn, options)
  }

  close(): void {
    this.#client.close()
  }
}
