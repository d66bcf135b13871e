/** A broken assumption of the program itself: never caught below `main`. */
export class BugError extends Error {
  override readonly name = 'BugError'
}

/** Ends with a `BugError` unless `condition` holds; `describe` is only called on failure and states the values. */
export function assert(condition: boolean, describe: () => string): asserts condition {
  if (!condition) throw new BugError(describe())
}

/** For the branch that an exhaustive switch can never take. */
export function unreachable(value: never): never {
  throw new BugError(`unreachable value ${JSON.stringify(value)}`)
}

/** The value, which the caller knows to be there. `what` names it when it is not. */
export function present<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) throw new BugError(`${what} is missing`)
  return value
}
