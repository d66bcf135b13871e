/** The consequence of a failed beginning for the life of a compute. */
import { UnderstoryError, describeError, isErrorCode } from '@understory/base'
import { LeadLostError } from '@understory/consensus/driver'
import type { Failure } from './lifecycle.ts'

export class PostgresNotStartedError extends UnderstoryError {
  readonly hasEndedByItself: boolean

  constructor(hasEndedByItself: boolean, cause: unknown) {
    super('unavailable', `Postgres did not start on the rebuilt data directory: ${describeError(cause)}`, {
      cause,
    })
    this.hasEndedByItself = hasEndedByItself
  }
}

/**
 * Storage has a part of a bootstrap: another initdb is another system, whose WAL and pages do not go with what is
 * there.
 */
export class BootstrapInterruptedError extends UnderstoryError {
  constructor() {
    super('precondition', 'the bootstrap of this timeline was cut short', {
      hint: 'The control plane begins it again by itself.',
    })
  }
}

export function failureFrom(error: unknown): Failure {
  const problem = describeError(error)
  if (error instanceof LeadLostError) return { kind: 'leadLost', loss: error.loss, problem }
  if (error instanceof PostgresNotStartedError)
    return { kind: 'postgresNotStarted', hasEndedByItself: error.hasEndedByItself, problem }
  if (error instanceof BootstrapInterruptedError) return { kind: 'bootstrapInterrupted', problem }
  return { kind: isErrorCode(error, 'precondition') ? 'precondition' : 'other', problem }
}
