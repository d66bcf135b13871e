/** The messages between proposers and acceptors: proto/understory/v1/safekeeper.proto with positions as numbers. */
import type { Lsn } from '@understory/base'
import type { TermHistory } from './term-history.ts'

/** How a compute continues after an election: its living Postgres streams on, or Postgres is rebuilt from storage. */
export type ElectionKind = 'adopt' | 'rebuild'

export interface GreetingMessage {
  readonly membershipGeneration: number
}
export interface GreetingReply {
  readonly term: number
  readonly membershipGeneration: number
}

export interface VoteMessage {
  readonly term: number
}
export interface VoteReply {
  /** The acceptor's term, at least the one asked for. */
  readonly term: number
  readonly voteGiven: boolean
  /** End of the WAL it has flushed, at a record end. */
  readonly flushLsn: Lsn
  readonly commitLsn: Lsn
  /** History of that WAL: no entry beyond `flushLsn`. */
  readonly history: TermHistory
}

export interface ElectedMessage {
  readonly term: number
  /** Where the acceptor's log begins to come from this proposer. */
  readonly startStreamingLsn: Lsn
  /** The proposer's history, its own term last. */
  readonly history: TermHistory
  readonly election: ElectionKind
}

export interface AppendMessage {
  readonly term: number
  readonly beginLsn: Lsn
  readonly commitLsn: Lsn
  /** Last record end at or before the end of `wal` that the proposer knows. */
  readonly recordEndLsn: Lsn
  /** Empty in a heartbeat, which is always answered. */
  readonly wal: Uint8Array
}
export interface AppendReply {
  readonly term: number
  /** At a record end. */
  readonly flushLsn: Lsn
  readonly commitLsn: Lsn
}
