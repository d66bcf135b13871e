/** Takes an error of a handler that is not an `UnderstoryError`: a bug, to be logged as an error. */
export type BugReporter = (error: unknown, method: string) => void

/** A line for a program without a log. */
export const describeBug = (error: unknown, method: string): string =>
  `${JSON.stringify({ level: 'error', event: 'rpc_handler_bug', method, error: stackOf(error) })}\n`

const stackOf = (error: unknown): string =>
  error instanceof Error ? (error.stack ?? error.message) : String(error)
