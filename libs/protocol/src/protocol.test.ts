/** The messages that are accepted and refused, for everything that is read from the wire in one place. */
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import {
  checkSpec,
  decodeSpec,
  encodeSpec,
  everyMember,
  initialMembership,
  readGeneration,
  readHistory,
  readMembers,
  readMembership,
  readPostgresIdentity,
  readSafekeeperAddresses,
  readShardRef,
  readTerm,
  readTimelineRef,
  rulesOf,
  writeHistory,
  writeMembership,
  parseScramVerifier,
} from './index.ts'

const REF = { tenantId: 'a1'.repeat(16), timelineId: 'b2'.repeat(16) }
const POSTGRES = { major: 17, systemId: 7n, pgTimelineId: 1, walSegmentBytes: 16 << 20 } as const
const SPEC = {
  timeline: REF,
  postgresMajor: 17,
  bootstrap: false,
  safekeepers: ['a:1', 'b:1', 'c:1'],
  membership: undefined,
  pageservers: ['p:1'],
  stripeBlocks: 256,
  sqlPort: 0,
  settings: { work_mem: '8MB' },
  fullPageWritesOff: false,
  requireTls: true,
  specGeneration: 3n,
}
const refused = (code: string): object => expect.objectContaining({ code })

test('a timeline is named by two ids of 32 hexadecimal digits', () => {
  expect(readTimelineRef(REF)).toEqual(REF)
  for (const ref of [undefined, { ...REF, tenantId: '' }, { ...REF, timelineId: '../'.padEnd(32, 'b') }])
    expect(() => readTimelineRef(ref)).toThrow(refused('bad_argument'))
})

test('a shard is one of at most 256, with stripes of 1 to 2^20 blocks', () => {
  for (const shard of [
    { number: 0, count: 1, stripeBlocks: 1 },
    { number: 255, count: 256, stripeBlocks: 2 ** 20 },
  ])
    expect(readShardRef(shard)).toEqual(shard)
  for (const shard of [
    undefined,
    { number: 0, count: 0, stripeBlocks: 1 },
    { number: 1, count: 1, stripeBlocks: 1 },
    { number: 0, count: 257, stripeBlocks: 1 },
    { number: 0, count: 1, stripeBlocks: 0 },
    { number: 0, count: 1, stripeBlocks: 2 ** 20 + 1 },
  ])
    expect(() => readShardRef(shard)).toThrow(refused('bad_argument'))
})

test('a version that is not supported is refused with one code and one wording', () => {
  expect(readPostgresIdentity(POSTGRES)).toEqual(POSTGRES)
  const problem = { code: 'unsupported', message: 'PostgreSQL 15 is not supported' }
  expect(() => readPostgresIdentity({ ...POSTGRES, major: 15 })).toThrow(expect.objectContaining(problem))
  expect(() => checkSpec({ ...SPEC, postgresMajor: 15 })).toThrow(expect.objectContaining(problem))
})

test('an identity without timeline, or with segments that Postgres has not, is refused', () => {
  for (const message of [
    undefined,
    { ...POSTGRES, pgTimelineId: 0 },
    { ...POSTGRES, walSegmentBytes: 0 },
    { ...POSTGRES, walSegmentBytes: 3 << 20 },
  ])
    expect(() => readPostgresIdentity(message)).toThrow(refused('bad_argument'))
})

test('terms, generations and histories come back as they were sent, as far as they are exact', () => {
  const history = [
    { term: 1, startLsn: lsn(8) },
    { term: 2 ** 53 - 1, startLsn: lsn(2 ** 53 - 1) },
  ]
  expect(readHistory(writeHistory(history))).toEqual(history)
  expect(() => readTerm(2n ** 53n)).toThrow(refused('bad_argument'))
  expect(() => readGeneration('membership', 2n ** 53n)).toThrow('membership generation 9007199254740992')
  expect(() => readHistory([{ term: 2n ** 53n, startLsn: 0n }])).toThrow(refused('bad_argument'))
  expect(() => readHistory([{ term: 1n, startLsn: 2n ** 53n }])).toThrow(refused('bad_lsn'))
})

test('a membership names safekeepers that can be dialled', () => {
  const [a, b, c] = ['a', 'b', 'c'].map((nodeId) => ({ nodeId, address: `${nodeId}.local:7001` }))
  const known = { generation: 4, members: [a!, b!], newMembers: [b!, c!] }
  expect(readMembership(writeMembership(known))).toEqual(known)
  expect(everyMember(known)).toEqual([a, b, c])
  expect(rulesOf(known)).toEqual({ generation: 4, members: ['a', 'b'], newMembers: ['b', 'c'] })
  expect(rulesOf(initialMembership(['x:1']))).toEqual({ generation: 0, members: ['x:1'] })
  for (const members of [
    [{ nodeId: '../a', address: 'a:1' }],
    [{ nodeId: 'a', address: '' }],
    [{ nodeId: 'a', address: 'a:65536' }],
    Array.from({ length: 101 }, () => a!),
  ]) {
    expect(() => readMembers(members)).toThrow(refused('bad_argument'))
    const message = { generation: 0n, members: [a!], newMembers: members }
    expect(() => readMembership(message)).toThrow(refused('bad_argument'))
    expect(() => checkSpec({ ...SPEC, membership: message })).toThrow(refused('bad_argument'))
  }
  expect(() => readMembership({ generation: 0n, members: [], newMembers: [] })).toThrow('names no members')
  expect(() => readMembership(undefined)).toThrow('names no members')
  expect(() => readSafekeeperAddresses(['a:1', 'a'])).toThrow(refused('bad_argument'))
})

test('a compute spec is kept as text, and needs a timeline, safekeepers and pageservers', () => {
  expect(decodeSpec(encodeSpec(SPEC))).toEqual(SPEC)
  for (const spec of [
    undefined,
    { ...SPEC, timeline: undefined },
    { ...SPEC, timeline: { ...REF, tenantId: 'x' } },
    { ...SPEC, safekeepers: [] },
    { ...SPEC, pageservers: [] },
  ])
    expect(() => checkSpec(spec)).toThrow(refused('bad_argument'))
  expect(() => decodeSpec('AA')).toThrow('the compute spec is malformed')
})

test('text that Postgres would take for a password, or for no text at all, is refused as a verifier', () => {
  const keys = `${Buffer.alloc(32, 1).toString('base64')}:${Buffer.alloc(32, 2).toString('base64')}`
  expect(parseScramVerifier(`SCRAM-SHA-256$4096:c2FsdA==$${keys}`)).toEqual({
    iterations: 4_096,
    salt: Buffer.from('salt'),
  })
  for (const text of [
    '',
    'a\0b',
    'secret',
    `SCRAM-SHA-256$1:c2FsdA==$${keys}`,
    `SCRAM-SHA-256$4096:x$${keys}`,
  ])
    expect(() => parseScramVerifier(text)).toThrow('is not a SCRAM-SHA-256 verifier')
})
