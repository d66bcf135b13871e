/** How far a timeline's shards are behind, in one line for people. */
import type { IngestLag } from '@understory/rpc'

const KIB = 1024
const MIB = 1024 * KIB

/** Such as `0.3 MiB of 512 MiB`, and what follows from it. */
export function lagLine({ bytes, limitBytes, walBytesPerS, heldMs, unknownShards }: IngestLag): string {
  const lag = `${(Number(bytes) / MIB).toFixed(1)} MiB of ${(Number(limitBytes) / MIB).toFixed(0)} MiB`
  const parts = [`ingest lag: ${lag}`]
  if (walBytesPerS > 0n)
    parts.push(`commits are slowed to ${kib(walBytesPerS)} KiB of WAL a second (held for ${heldMs} ms now)`)
  if (unknownShards.length > 0) parts.push(`not known of shard ${unknownShards.join(', ')}`)
  return parts.join('; ')
}

const kib = (bytes: bigint): string => String(Math.round(Number(bytes) / KIB))
