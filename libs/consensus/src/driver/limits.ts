/** How long a driver waits and how much it holds. */
export interface DriverLimits {
  readonly heartbeatMs: number
  /** The pause before a connection is opened again: after the first failure, and the most after many in a row. */
  readonly reconnectMs: number
  readonly reconnectMsMax: number
  /** Safekeepers get the commit position with the next append, or after twice this time. */
  readonly newsMs: number
  /** WAL that may wait to be committed before `push` waits. */
  readonly bufferBytesMax: number
  /** Of one read from another safekeeper for one that lags. */
  readonly fetchBytesMax: number
  /** After so long without a connected donor of the WAL that an acceptor needs, the connected ones elect again. */
  readonly donorWaitMs: number
}

export const DRIVER_LIMITS: DriverLimits = {
  heartbeatMs: 1_000,
  reconnectMs: 500,
  reconnectMsMax: 1_000,
  newsMs: 5,
  bufferBytesMax: 64 * 1024 * 1024,
  fetchBytesMax: 1024 * 1024,
  donorWaitMs: 5_000,
}
