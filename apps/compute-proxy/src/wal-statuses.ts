/** What the safekeepers of a timeline know of it. */
import { isErrorCode, refuse } from '@understory/base'
import { SafekeeperServiceClient, callUnary, createClient } from '@understory/rpc'
import type { GetWalStatusResponse } from '@understory/rpc'
import type { CheckedSpec } from './spec.ts'

const DEADLINE_MS = 5_000

/**
 * The answers of those that know the timeline; none where all answer and none knows it. Error: refused `unavailable` where
 * none of those that answer knows it, and one is away.
 */
export async function walStatuses(
  { safekeepers, timeline }: Pick<CheckedSpec, 'safekeepers' | 'timeline'>,
  signal: AbortSignal,
): Promise<GetWalStatusResponse[]> {
  const answers = await Promise.all(
    safekeepers.map(async (address) => {
      const client = createClient(SafekeeperServiceClient, address)
      try {
        const options = { deadlineMs: DEADLINE_MS, peer: `safekeeper ${address}`, signal }
        return await callUnary(client.getWalStatus.bind(client), { timeline }, options)
      } catch (error) {
        if (isErrorCode(error, 'unavailable') || isErrorCode(error, 'timeout')) return 'away'
        if (isErrorCode(error, 'unknown_timeline')) return undefined
        throw error
      } finally {
        client.close()
      }
    }),
  )
  const known = answers.filter((answer) => answer !== undefined && answer !== 'away')
  if (known.length === 0 && answers.includes('away')) {
    throw refuse('unavailable', 'no safekeeper that answers knows the timeline', {
      hint: 'Start the safekeepers.',
    })
  }
  return known
}
