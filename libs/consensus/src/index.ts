export { abortChange, allMembers, finishChange, isQuorum, startChange } from './membership.ts'
export type { MemberStatus, Membership } from './membership.ts'
export type {
  AppendMessage,
  AppendReply,
  ElectedMessage,
  ElectionKind,
  GreetingMessage,
  GreetingReply,
  VoteMessage,
  VoteReply,
} from './messages.ts'
export { createProposer, hasNews, isBufferFull, stepProposer } from './proposer.ts'
export type {
  PeerState,
  ProposerEffect,
  ProposerInput,
  ProposerOptions,
  ProposerState,
  ProposerStep,
} from './proposer-state.ts'
export {
  compareLogs,
  highestCommonPoint,
  historyUpTo,
  initialHistory,
  isWellFormedHistory,
  lastTermStart,
} from './term-history.ts'
export type { LogEnd, TermHistory, TermStart } from './term-history.ts'
export { WalBuffer } from './wal-buffer.ts'
export type { WalRange } from './wal-buffer.ts'
export { initialControl, restoreAcceptor, stepAcceptor } from './acceptor.ts'
export type {
  AcceptorControl,
  AcceptorInput,
  AcceptorState,
  AcceptorStep,
  DurableEffect,
  FollowingEffect,
} from './acceptor.ts'
