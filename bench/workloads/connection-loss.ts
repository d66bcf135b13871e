/**
 * Which errors mean that the connection is gone, or cannot be had just now, rather than that a statement was
 * wrong.
 */
const LOSS_CODES: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOENT',
  'ECONNABORTED',
  // The gate before a compute that is being rebuilt refuses with invalid_authorization_specification.
  '28000',
  // too_many_connections: the backends of killed clients may take a moment to go.
  '53300',
])

// Class 57P0x is admin_shutdown, crash_shutdown, cannot_connect_now, ...; class 08 the connection exceptions.
// The texts are those of `pg`, which has no codes for a socket that closed under it.
const LOSS_CLASS = /^(57P0.|08...)$/
const LOSS_TEXT =
  /^Connection terminated|connection error and is not queryable|^Client was closed|^timeout expired/

export function isConnectionLoss(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if (error instanceof AggregateError) return error.errors.every(isConnectionLoss)
  const code = errorCode(error)
  return LOSS_CODES.has(code) || LOSS_CLASS.test(code) || LOSS_TEXT.test(error.message)
}

/** Deadlock or serialization failure: the same transaction may be tried again. */
export function isRetryable(error: unknown): boolean {
  const code = error instanceof Error ? errorCode(error) : ''
  return code === '40001' || code === '40P01'
}

function errorCode(error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : ''
}
