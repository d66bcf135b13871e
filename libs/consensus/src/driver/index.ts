export { Leadership } from './leadership.ts'
export { DRIVER_LIMITS } from './limits.ts'
export type { DriverLimits } from './limits.ts'
export { LeadLostError, isFinal, lossError } from './loss.ts'
export type { Loss } from './loss.ts'
export { everyMember, rulesOf } from './membership.ts'
export type { KnownMembership, Member } from './membership.ts'
export type { DriverObserver } from './observer.ts'
export type { AcceptorAnswer, ProposerSession } from './proposer-session.ts'
export { ProposerDriver } from './proposer-driver.ts'
export type { DriverOptions, Election } from './options.ts'
export type {
  Connection,
  ConnectionListener,
  Greeting,
  GreetingAnswer,
  Route,
  Transport,
  WalRead,
  WalReadDone,
} from './transport.ts'
