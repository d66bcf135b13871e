/** The proposer's state, inputs and effects: the types of its steps (proposer.ts). */
import { NO_PROGRESS } from './progress.ts'
import type { Lsn } from '@understory/base'
import type { Membership } from './membership.ts'
import type {
  AppendMessage,
  AppendReply,
  ElectedMessage,
  ElectionKind,
  GreetingReply,
  VoteMessage,
  VoteReply,
} from './messages.ts'
import type { Progress } from './progress.ts'
import type { TermHistory } from './term-history.ts'

export interface ProposerOptions {
  readonly membership: Membership
  readonly timelineStartLsn: Lsn
  /** The term under which a Postgres that still lives was streamed; undefined where none lives: then rebuild. */
  readonly livingTerm: number | undefined
  /** Most WAL in one append. */
  readonly appendBytesMax?: number
  /** WAL that may wait in the transport to one acceptor. */
  readonly inFlightBytesMax?: number
  /** Committed WAL that the buffer keeps for acceptors that lag; further back it is read from another acceptor. */
  readonly keptBytesMax?: number
  /** Appends to one acceptor that may be unanswered while less than a whole one waits: see `pace`. */
  readonly unansweredMax?: 1 | 2
}

type PeerConnection =
  | 'down'
  /** The greeting was answered. */
  | 'greeted'
  /** Asked for its vote, or as leader for its positions. */
  | 'asked'
  /** Its positions of this connection are known. */
  | 'known'
  /** `elected` was sent on this connection: WAL may follow. */
  | 'streaming'

/** Flat, because every step copies it. */
export interface PeerState extends Progress {
  readonly connection: PeerConnection
  /** From its greeting. */
  readonly term: number
  /** Newest positions; with `hasVoted`, those it voted with or later ones. */
  readonly vote: VoteReply | undefined
  readonly hasVoted: boolean
}

export interface ProposerState {
  readonly phase: 'greeting' | 'campaign' | 'comparing' | 'leader' | 'fenced'
  readonly options: Required<ProposerOptions>
  readonly peers: Readonly<Record<string, PeerState>>
  /** Asked for or won; 0 before the campaign. */
  readonly term: number
  /** From the election on: this proposer's history, its own term last. */
  readonly history: TermHistory
  /** Where this term begins. */
  readonly termStartLsn: Lsn
  /** Decided with the election. */
  readonly election: ElectionKind
  /** Holds the whole log up to `termStartLsn`. */
  readonly donor: string
  /** The driver's buffer holds [bufferStartLsn, bufferEndLsn). */
  readonly bufferStartLsn: Lsn
  readonly bufferEndLsn: Lsn
  /** Last record end known, at most `bufferEndLsn`. */
  readonly recordEndLsn: Lsn
  /** 0/0 until this term committed something. */
  readonly commitLsn: Lsn
  /** `commitLsn` as of the last `news`. */
  readonly newsLsn: Lsn
}

export type ProposerInput =
  /** A stream to the acceptor stands and its greeting was answered. */
  | { readonly kind: 'greeted'; readonly from: string; readonly reply: GreetingReply }
  | { readonly kind: 'voted'; readonly from: string; readonly reply: VoteReply }
  | { readonly kind: 'appended'; readonly from: string; readonly reply: AppendReply }
  | { readonly kind: 'disconnected'; readonly from: string }
  /** The transport took an append with so many bytes of WAL. */
  | { readonly kind: 'sent'; readonly to: string; readonly bytes: number }
  /** Answers `compareLocalWal`. */
  | { readonly kind: 'localWalCompared'; readonly isEqual: boolean }
  /** The buffer now ends at `endLsn`; `recordEndLsn` is the last record end in it. */
  | { readonly kind: 'wal'; readonly endLsn: Lsn; readonly recordEndLsn: Lsn }
  /** Answers `fetchWal`: the driver holds these bytes. They may end before what was asked for. */
  | { readonly kind: 'walFetched'; readonly to: string; readonly startLsn: Lsn; readonly endLsn: Lsn }
  | { readonly kind: 'fetchFailed'; readonly to: string }
  /** A newer membership: a leader continues under it, any other proposer has to start again. */
  | { readonly kind: 'membership'; readonly membership: Membership }
  /**
   * Some milliseconds after `commitAdvanced`, and again while `hasNews`: for acceptors that no append brought it to.
   */
  | { readonly kind: 'news' }
  /**
   * How far away the acceptors are. Near ones are sent the next append once they answered: what came in the meantime
   * goes as one, which is the cheapest. Far ones have a second on its way, so that they never wait for one.
   */
  | { readonly kind: 'pace'; readonly unansweredMax: 1 | 2 }
  /** Now and then, such as every second: asks idle acceptors for a sign of life and tries again what was stuck. */
  | { readonly kind: 'heartbeat' }

export type ProposerEffect =
  | { readonly kind: 'sendVote'; readonly to: string; readonly message: VoteMessage }
  | { readonly kind: 'sendElected'; readonly to: string; readonly message: ElectedMessage }
  /** An append without WAL: a heartbeat, or news of the commit position. */
  | { readonly kind: 'sendPositions'; readonly to: string; readonly message: AppendMessage }
  /** An append with the bytes [startLsn, endLsn) of the buffer, or of what was fetched for this acceptor. */
  | {
      readonly kind: 'sendWal'
      readonly to: string
      readonly source: 'buffer' | 'fetched'
      readonly term: number
      readonly startLsn: Lsn
      readonly endLsn: Lsn
      readonly commitLsn: Lsn
      /** A record end within or before the range; the buffer may know a later one. */
      readonly recordEndLsn: Lsn
    }
  /** Is the WAL of the living Postgres, up to `endLsn`, what `donor` has? Answer with `localWalCompared`. */
  | { readonly kind: 'compareLocalWal'; readonly donor: string; readonly term: number; readonly endLsn: Lsn }
  /** Won. The next byte of WAL goes to `startLsn`; what is before it is fixed, though maybe not committed yet. */
  | {
      readonly kind: 'elected'
      readonly term: number
      readonly startLsn: Lsn
      readonly election: ElectionKind
      readonly lastLogTerm: number
      readonly donor: string
    }
  | { readonly kind: 'commitAdvanced'; readonly lsn: Lsn }
  /** Nothing before is sent from the buffer any more. */
  | { readonly kind: 'trimBuffer'; readonly lsn: Lsn }
  /** Read [startLsn, endLsn) from acceptor `from`, naming `term`, for acceptor `to`. One at a time for each `to`. */
  | {
      readonly kind: 'fetchWal'
      readonly to: string
      readonly from: string
      readonly term: number
      readonly startLsn: Lsn
      readonly endLsn: Lsn
    }
  /** `to` needs WAL that no connected acceptor has. If this term has committed nothing, a new election helps. */
  | { readonly kind: 'donorMissing'; readonly to: string; readonly startLsn: Lsn }
  /** Close the stream: the peer broke the protocol, or the membership changed. Open a new one while it is a member. */
  | { readonly kind: 'drop'; readonly peer: string; readonly reason: string }
  /** The end: another proposer has `term`, or the vote was lost. Stop Postgres, or try again with a new proposer. */
  | { readonly kind: 'fenced'; readonly term: number }
  /** The end: the membership is older than what an acceptor knows. */
  | { readonly kind: 'staleMembership'; readonly generation: number }

export interface ProposerStep {
  readonly state: ProposerState
  readonly effects: readonly ProposerEffect[]
}

export const PEER_DOWN: PeerState = {
  connection: 'down',
  term: 0,
  vote: undefined,
  hasVoted: false,
  ...NO_PROGRESS,
}
