/** Goal: the hand-written messages are the generated code's, byte for byte and both ways, with any contents. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { FollowWalResponse, ProposeRequest, SubscribeWalResponse } from './gen/understory/v1/safekeeper.ts'
import {
  deserializeFollowWalResponse,
  deserializeProposeRequest,
  deserializeSubscribeWalResponse,
  serializeFollowWalResponse,
  serializeProposeRequest,
  serializeSubscribeWalResponse,
} from './wal-messages.ts'

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
const bytes = fc
  .oneof(fc.constantFrom(0, 1, 127, 128, 16_383, 16_384, 100_000), fc.nat(300))
  .map((length) => Buffer.alloc(length, 0xa5))

test('a request of the proposer', () => {
  const append = fc
    .record({ term: u64, beginLsn: u64, commitLsn: u64, recordEndLsn: u64, wal: bytes })
    .map((value): ProposeRequest => ({ message: { $case: 'append', value } }))
  const vote = u64.map((term): ProposeRequest => ({ message: { $case: 'vote', value: { term } } }))
  fc.assert(
    fc.property(fc.oneof(append, vote, fc.constant<ProposeRequest>({ message: undefined })), (request) => {
      const generated = Buffer.from(ProposeRequest.encode(request).finish())
      expect(serializeProposeRequest(request).equals(generated)).toBe(true)
      expect(deserializeProposeRequest(generated)).toEqual(ProposeRequest.decode(generated))
    }),
    { numRuns: 300 },
  )
})

test('a batch for a pageserver', () => {
  const protocolVersion = fc.nat(3)
  const batch = fc.record({
    startLsn: u64,
    endLsn: u64,
    commitLsn: u64,
    entries: bytes,
    protocolVersion,
    moreFollows: fc.boolean(),
  })
  fc.assert(
    fc.property(batch, (response) => {
      const generated = Buffer.from(SubscribeWalResponse.encode(response).finish())
      const ours = serializeSubscribeWalResponse(response)
      // Equal fields; the entries come last, so that they can be borrowed.
      expect(SubscribeWalResponse.decode(ours)).toEqual(SubscribeWalResponse.decode(generated))
      expect(deserializeSubscribeWalResponse(ours)).toEqual(SubscribeWalResponse.decode(generated))
      expect(deserializeSubscribeWalResponse(generated)).toEqual(SubscribeWalResponse.decode(generated))
    }),
    { numRuns: 300 },
  )
})

test('fields in another order, twice, or unknown are read as the generated code reads them', () => {
  const [wal, other] = [Buffer.from('2a03aabbcc', 'hex'), Buffer.from('2a01dd', 'hex')]
  const [term, unknown] = [Buffer.from('0807', 'hex'), Buffer.from('7a021122', 'hex')]
  for (const parts of [
    [wal, term],
    [term, unknown, wal],
    [wal, unknown],
    [other, term, wal],
    [wal, other],
    [],
  ]) {
    const inner = Buffer.concat(parts)
    const message = Buffer.concat([Buffer.from([0x22, inner.length]), inner])
    for (const each of [message, Buffer.concat([message, message]), Buffer.concat([message, unknown])]) {
      expect(deserializeProposeRequest(each)).toEqual(ProposeRequest.decode(each))
    }
  }
})

test.each(['2205', '220a0807', '22ff', '2203ffffff', '22042aff0102'])(
  'a damaged message %s is refused',
  (hex) => {
    const damaged = Buffer.from(hex, 'hex')
    expect(() => ProposeRequest.decode(damaged)).toThrow()
    expect(() => deserializeProposeRequest(damaged)).toThrow()
  },
)

test('a batch for one of several shards', () => {
  const batch = fc
    .record({
      subscriptionId: fc.nat(),
      startLsn: u64,
      endLsn: u64,
      commitLsn: u64,
      moreFollows: fc.boolean(),
      entries: bytes,
    })
    .map((value): FollowWalResponse => ({ message: { $case: 'batch', value } }))
  const accepted = fc.nat().map((protocolVersion): FollowWalResponse => ({
    message: { $case: 'accepted', value: { protocolVersion } },
  }))
  const end: FollowWalResponse = {
    message: {
      $case: 'end',
      value: { subscriptionId: 7, code: 'stale', message: 'm', detail: '', hint: 'h' },
    },
  }
  const none: FollowWalResponse = { message: undefined }
  fc.assert(
    fc.property(fc.oneof(batch, accepted, fc.constantFrom(end, none)), (response) => {
      const generated = Buffer.from(FollowWalResponse.encode(response).finish())
      expect(serializeFollowWalResponse(response).equals(generated)).toBe(true)
      expect(deserializeFollowWalResponse(generated)).toEqual(FollowWalResponse.decode(generated))
    }),
    { numRuns: 300 },
  )
})
