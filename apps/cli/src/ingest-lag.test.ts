// Goal: a user sees that commits are slowed, how much, and which shard is not known. Method: the lines themselves.
import { expect, test } from 'vitest'
import { lagLine } from './ingest-lag.ts'

const MIB = 1n << 20n
const CALM = {
  bytes: MIB / 2n,
  limitBytes: 512n * MIB,
  walBytesPerS: 0n,
  heldMs: 0,
  heldBytes: 0n,
  unknownShards: [],
}

test('the lag, what it does to commits, and what is not known of it', () => {
  expect(lagLine(CALM)).toBe('ingest lag: 0.5 MiB of 512 MiB')
  expect(lagLine({ ...CALM, bytes: 600n * MIB, walBytesPerS: 65_536n, heldMs: 1_200 })).toBe(
    'ingest lag: 600.0 MiB of 512 MiB; commits are slowed to 64 KiB of WAL a second (held for 1200 ms now)',
  )
  expect(lagLine({ ...CALM, unknownShards: [0, 3] })).toBe(
    'ingest lag: 0.5 MiB of 512 MiB; not known of shard 0, 3',
  )
})
