/**
 * What the clients of one node share: handed to whatever makes some, so that two nodes in one process may have two
 * identities.
 */
import { currentObserver } from './observer.ts'
import type { RpcObserver } from './observer.ts'
import { currentSecurity } from './security.ts'
import type { ClientSecurity } from './security.ts'

export interface ClientContext {
  readonly security: ClientSecurity
  /** Undefined where calls are not observed. */
  readonly observer?: RpcObserver | undefined
}

/** Without TLS, token and observer: for tests, and for tools on one machine. */
export const PLAIN_CLIENT: ClientContext = { security: {} }

/** The context of this process, as `useSecurity` and `observeRpc` have set it. */
export const processClient = (): ClientContext => ({
  security: currentSecurity().client,
  observer: currentObserver(),
})
