/**
 * How far the bootstrap of a timeline got, as storage reports. A bootstrap ends with every shard having its import in
 * the object store, and only then are clients let in: so a timeline whose bootstrap got less far holds nothing that a
 * client relies on.
 */
import { fail } from '@understory/base'
import type { CheckedSpec } from '@understory/protocol'
import { pageserverClient } from '@understory/protocol/clients'
import type { ClientContext } from '@understory/rpc'

const SHARD_DEADLINE_MS = 5_000

/** `none`: it may begin. `partial`: some of storage has something of it. `complete`: Postgres is rebuilt from it. */
export type BootstrapProgress = 'none' | 'partial' | 'complete'

/** Of a timeline that some safekeeper knows. Errors: those of the call to a shard. */
export async function bootstrapProgress(
  rpc: ClientContext,
  spec: CheckedSpec,
  signal: AbortSignal,
): Promise<Exclude<BootstrapProgress, 'none'>> {
  const imported = await Promise.all(
    spec.pageservers.map((address, number) => isImported(rpc, spec, address, number, signal)),
  )
  return imported.every(Boolean) ? 'complete' : 'partial'
}

async function isImported(
  rpc: ClientContext,
  { timeline }: CheckedSpec,
  address: string,
  number: number,
  signal: AbortSignal,
): Promise<boolean> {
  const client = pageserverClient(rpc, address)
  try {
    const shards = await client.shards(timeline, { deadlineMs: SHARD_DEADLINE_MS, signal })
    const found = shards.find(({ shard }) => shard?.number === number)
    if (found === undefined) throw fail('unavailable', `shard ${number} is not at ${address} yet`)
    if (found.failure !== '') {
      throw fail('unavailable', `shard ${number} at ${address} has stopped: ${found.failure}`)
    }
    return found.ingestedLsn > 0n
  } finally {
    client.close()
  }
}
