// Goal: what was written once is read for ever, and anything else is refused.
// Method: golden bytes of version 1; every shorter, longer and differently versioned value.
import { expect, test } from 'vitest'
import { KEY_BYTES, KEY_REPLICATION_ORIGIN, writeKey } from './key.ts'
import { decodeOriginProgress, encodeOriginProgress, replicationOriginKey } from './replication-origin.ts'

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

test('key and value of version 1', () => {
  const key = new Uint8Array(KEY_BYTES)
  writeKey(new DataView(key.buffer), 0, replicationOriginKey(0xfffe))
  expect(hex(key)).toBe('0a00000000000000000000fffe0000000000'.padEnd(KEY_BYTES * 2, '0'))
  expect(KEY_REPLICATION_ORIGIN).toBe(10)
  for (const [golden, remoteLsn] of [
    ['01000000000000000050000000000000', 0x5000n],
    ['0100000000000000f0ffffffffffffff', 0xffff_ffff_ffff_fff0n],
  ] as const) {
    expect(hex(encodeOriginProgress(remoteLsn))).toBe(golden)
    expect(decodeOriginProgress(Buffer.from(golden, 'hex'))).toBe(remoteLsn)
  }
})

test('anything else is refused', () => {
  const whole = encodeOriginProgress(1n)
  for (const bytes of [whole.subarray(1), Uint8Array.of(...whole, 0), Uint8Array.of(2, ...whole.subarray(1))])
    expect(() => decodeOriginProgress(bytes)).toThrow('progress of a replication origin')
})
