/** Another safekeeper as a source of committed WAL. */
import { lsnFromBigint, lsnToBigint, refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import { readHistory, readPostgresIdentity } from '@understory/protocol'
import type { Member } from '@understory/protocol'
import { SafekeeperServiceClient, callServerStream, callUnary, createClient } from '@understory/rpc'
import type { ClientContext, TimelineRef } from '@understory/rpc'
import type { SourceStatus, WalSource } from './recovery.ts'

const STATUS_DEADLINE_MS = 2_000
/** One that answers but sends nothing is left for another. */
const SILENCE_MS_MAX = 20_000

export class PeerSource implements WalSource {
  readonly name: string
  readonly #member: Member
  readonly #timeline: TimelineRef
  readonly #client: SafekeeperServiceClient

  constructor(rpc: ClientContext, member: Member, timeline: TimelineRef) {
    this.name = `safekeeper "${member.nodeId}"`
    this.#member = member
    this.#timeline = timeline
    this.#client = createClient(rpc, SafekeeperServiceClient, member.address)
  }

  async status(signal: AbortSignal): Promise<SourceStatus> {
    const options = { deadlineMs: STATUS_DEADLINE_MS, signal, peer: this.name }
    const status = await callUnary(
      this.#client.getWalStatus.bind(this.#client),
      { timeline: this.#timeline },
      options,
    )
    if (status.nodeId !== this.#member.nodeId)
      throw refuse('unavailable', `"${status.nodeId}" answers at the address of ${this.name}`)
    return {
      identity: readPostgresIdentity(status.postgres),
      timelineStartLsn: lsnFromBigint(status.timelineStartLsn),
      history: readHistory(status.termHistory),
      commitLsn: lsnFromBigint(status.commitLsn),
      oldestLsn: lsnFromBigint(status.oldestLsn),
    }
  }

  async *read(startLsn: Lsn, endLsn: Lsn, signal: AbortSignal): AsyncGenerator<Uint8Array, void, void> {
    const request = {
      timeline: this.#timeline,
      startLsn: lsnToBigint(startLsn),
      endLsn: lsnToBigint(endLsn),
      term: 0n,
    }
    const read = this.#client.readWal.bind(this.#client)
    const options = { signal, peer: this.name, silenceMsMax: SILENCE_MS_MAX }
    for await (const { wal } of callServerStream(read, request, options)) yield wal
  }

  close(): void {
    this.#client.close()
  }
}
