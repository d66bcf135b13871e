/**
 * The driver's way to the safekeepers: gRPC in production (apps/compute-proxy), a network that misbehaves in the
 * simulation (libs/simulation). A transport moves messages; it decides nothing.
 */
import type { Lsn } from '@understory/base'
import type {
  AppendMessage,
  AppendReply,
  ElectedMessage,
  GreetingReply,
  VoteMessage,
  VoteReply,
} from '../messages.ts'
import type { KnownMembership, Member } from './membership.ts'

/** The first message of a proposer on each connection. */
export interface Greeting {
  readonly membership: KnownMembership
  /** The commit position of this proposer; 0/0 before the first commit. */
  readonly commitLsn: Lsn
}

export interface GreetingAnswer extends GreetingReply {
  /** The acceptor's own name. */
  readonly nodeId: string
  /** The members of `membershipGeneration`, where the acceptor knows them. */
  readonly membership: KnownMembership | undefined
}

/**
 * The events of one connection. None comes before `open` has returned. Messages may still arrive after the driver has
 * closed the connection: the driver ignores them.
 */
export interface ConnectionListener {
  greeted(answer: GreetingAnswer): void
  voted(reply: VoteReply): void
  appended(reply: AppendReply): void
  /** The transport took an append with so many bytes of WAL, and has room for the next. */
  sent(walBytes: number): void
  /** The other side ended it, or it failed with `error`. Comes once and last; it may be left out after `close`. */
  closed(error: unknown): void
}

/** One stream to an acceptor. Messages sent after it is closed are dropped. */
export interface Connection {
  sendVote(message: VoteMessage): void
  sendElected(message: ElectedMessage): void
  /** `traceparent`: the trace context that goes with it, mostly empty. Borrows the bytes of `message.wal`. */
  sendAppend(message: AppendMessage, traceparent: string): void
  close(): void
}

/** A range of WAL of `term`'s log. */
export interface WalRead {
  readonly term: number
  readonly startLsn: Lsn
  readonly endLsn: Lsn
}

export type WalReadDone = (wal: Uint8Array | undefined, problem?: unknown) => void

/** The way to one member at one address. */
export interface Route {
  /** Opens a stream and sends the greeting by it. Does not throw: what fails comes as `closed`. */
  open(greeting: Greeting, listener: ConnectionListener): Connection
  /** Calls back once with a prefix of the range, or with why there is none; not necessarily after the signal fired. */
  readWal(read: WalRead, signal: AbortSignal, done: WalReadDone): void
  /** Frees what it holds. Its connections are closed before. */
  close(): void
}

export interface Transport {
  /** Opens nothing by itself. */
  routeTo(member: Member): Route
}
