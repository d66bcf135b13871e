/** Calls of a compute to the safekeepers of its timeline, beside the stream of its WAL. */
import { UnderstoryError, isErrorCode, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { CheckedSpec } from '@understory/protocol'
import { safekeeperClient } from '@understory/protocol/clients'
import type { WalStatus } from '@understory/protocol/clients'
import type { ClientContext } from '@understory/rpc'

const DEADLINE_MS = 5_000

/**
 * The answers of those that know the timeline; none where all answer and none knows it. A safekeeper that is away, or
 * whose copy cannot be used, is not needed while another knows it. Errors: `unavailable` where none of those that
 * answer knows it, and one gave no answer.
 */
export async function walStatuses(
  rpc: ClientContext,
  { safekeepers, timeline }: Pick<CheckedSpec, 'safekeepers' | 'timeline'>,
  signal: AbortSignal,
): Promise<WalStatus[]> {
  const answers = await Promise.all(
    safekeepers.map(async (address) => {
      const client = safekeeperClient(rpc, address)
      try {
        return await client.walStatus(timeline, { deadlineMs: DEADLINE_MS, signal })
      } catch (error) {
        if (isErrorCode(error, 'unknown_timeline')) return undefined
        if (error instanceof UnderstoryError && !isErrorCode(error, 'cancelled')) return error
        throw error
      } finally {
        client.close()
      }
    }),
  )
  const known = answers
    .filter((answer) => !(answer instanceof UnderstoryError))
    .filter((answer) => answer !== undefined)
  const problem = answers.find((answer) => answer instanceof UnderstoryError)
  if (known.length === 0 && problem !== undefined) {
    throw fail('unavailable', `no safekeeper that answers knows the timeline: ${problem.message}`, {
      hint: 'Start the safekeepers.',
      cause: problem,
    })
  }
  return known
}

/**
 * On every safekeeper: a copy that is made later could not be distinguished from one that was lost. Error: the first of
 * any of them.
 */
export async function createTimeline(
  rpc: ClientContext,
  { safekeepers, timeline }: Pick<CheckedSpec, 'safekeepers' | 'timeline'>,
  postgres: PostgresIdentity,
  startLsn: Lsn,
  signal: AbortSignal,
): Promise<void> {
  await Promise.all(
    safekeepers.map(async (address) => {
      const client = safekeeperClient(rpc, address)
      try {
        await client.createTimeline(timeline, postgres, startLsn, { signal })
      } finally {
        client.close()
      }
    }),
  )
}
