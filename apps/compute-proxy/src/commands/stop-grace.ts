/** For calls under way when a compute, or its host, stops. */
export const STOP_GRACE_MS = 1_000
