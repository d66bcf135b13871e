/**
 * Errors that are not bugs. `code` comes from one closed table that says how each is reported and whether a caller
 * may try again. Messages read as Postgres writes them: lower case, no full stop, values quoted; the hint is a
 * sentence that says what to do.
 */
export type GrpcStatusName =
  | 'INVALID_ARGUMENT'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'FAILED_PRECONDITION'
  | 'ABORTED'
  | 'OUT_OF_RANGE'
  | 'RESOURCE_EXHAUSTED'
  | 'UNAVAILABLE'
  | 'DEADLINE_EXCEEDED'
  | 'DATA_LOSS'
  | 'INTERNAL'
  | 'CANCELLED'
  | 'UNIMPLEMENTED'
  | 'PERMISSION_DENIED'
  | 'UNAUTHENTICATED'

interface ErrorKind {
  readonly status: GrpcStatusName
  readonly retry: 'never' | 'backoff' | 'elsewhere'
  readonly level: 'error' | 'warn' | 'info'
}

export const ERROR_CODES = {
  bad_argument: { status: 'INVALID_ARGUMENT', retry: 'never', level: 'info' },
  bad_lsn: { status: 'INVALID_ARGUMENT', retry: 'never', level: 'info' },
  bad_wal: { status: 'DATA_LOSS', retry: 'never', level: 'error' },
  unknown_wal: { status: 'UNIMPLEMENTED', retry: 'never', level: 'error' },
  bad_page: { status: 'DATA_LOSS', retry: 'never', level: 'error' },
  bad_file: { status: 'DATA_LOSS', retry: 'never', level: 'error' },
  unknown_tenant: { status: 'NOT_FOUND', retry: 'never', level: 'info' },
  unknown_timeline: { status: 'NOT_FOUND', retry: 'never', level: 'info' },
  not_found: { status: 'NOT_FOUND', retry: 'never', level: 'info' },
  already_exists: { status: 'ALREADY_EXISTS', retry: 'never', level: 'info' },
  precondition: { status: 'FAILED_PRECONDITION', retry: 'never', level: 'info' },
  conflict: { status: 'ABORTED', retry: 'backoff', level: 'info' },
  stale: { status: 'ABORTED', retry: 'never', level: 'warn' },
  out_of_range: { status: 'OUT_OF_RANGE', retry: 'never', level: 'info' },
  disk_full: { status: 'RESOURCE_EXHAUSTED', retry: 'backoff', level: 'error' },
  disk_failed: { status: 'INTERNAL', retry: 'elsewhere', level: 'error' },
  unavailable: { status: 'UNAVAILABLE', retry: 'backoff', level: 'warn' },
  elsewhere: { status: 'UNAVAILABLE', retry: 'elsewhere', level: 'info' },
  timeout: { status: 'DEADLINE_EXCEEDED', retry: 'backoff', level: 'warn' },
  cancelled: { status: 'CANCELLED', retry: 'never', level: 'info' },
  unauthenticated: { status: 'UNAUTHENTICATED', retry: 'never', level: 'warn' },
  denied: { status: 'PERMISSION_DENIED', retry: 'never', level: 'error' },
  unsupported: { status: 'UNIMPLEMENTED', retry: 'never', level: 'info' },
} as const satisfies Record<string, ErrorKind>

export type ErrorCode = keyof typeof ERROR_CODES

interface ErrorOptionsExtra {
  /** The mechanism, for a reader who looks deeper. */
  readonly detail?: string
  /** The advice to the reader, as a sentence. */
  readonly hint?: string
  readonly cause?: unknown
}

/** Refused input or trouble outside. Bugs are `BugError`. */
export class UnderstoryError extends Error {
  override readonly name = 'UnderstoryError'
  readonly code: ErrorCode
  readonly detail: string | undefined
  readonly hint: string | undefined

  constructor(code: ErrorCode, message: string, extra: ErrorOptionsExtra = {}) {
    super(message, extra.cause === undefined ? {} : { cause: extra.cause })
    this.code = code
    this.detail = extra.detail
    this.hint = extra.hint
  }
}

/** Makes the error to throw: `throw fail('bad_argument', …)`. */
export function fail(code: ErrorCode, message: string, extra: ErrorOptionsExtra = {}): UnderstoryError {
  return new UnderstoryError(code, message, extra)
}

/** One line for people: message, detail and hint. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if (!(error instanceof UnderstoryError)) return error.message
  const detail = error.detail === undefined ? '' : ` (${error.detail})`
  return error.hint === undefined ? `${error.message}${detail}` : `${error.message}${detail}. ${error.hint}`
}

export function isErrorCode(error: unknown, code: ErrorCode): error is UnderstoryError {
  return error instanceof UnderstoryError && error.code === code
}
