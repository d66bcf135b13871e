// Goal: the table gives each key one number, whatever its growth, and finds it again by object and by encoded bytes.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { KEY_BYTES, compareKeys, writeKey } from './key.ts'
import { KeyTable } from './key-table.ts'

test('thousands of keys keep their numbers, order and fork lists', () => {
  const table = new KeyTable()
  const bytes = new DataView(new ArrayBuffer(KEY_BYTES))
  const key = fc.record({
    keyClass: fc.integer({ min: 0, max: 9 }),
    spcOid: fc.constantFrom(0, 1663, 0xffff_ffff),
    dbOid: fc.nat(3),
    rel: fc.nat(40),
    fork: fc.nat(3),
    block: fc.nat(900),
  })
  const keys = fc.sample(key, 5000)
  const ids = new Map<string, number>()
  for (const each of keys) {
    writeKey(bytes, 0, each)
    const id = table.internAt(bytes, 0)
    expect(id).toBe(ids.get(JSON.stringify(each)) ?? ids.size)
    ids.set(JSON.stringify(each), id)
  }
  for (const each of keys) {
    const id = table.lookUp(each)
    expect(id).toBe(ids.get(JSON.stringify(each)))
    expect(table.keyOf(id)).toEqual(each)
  }
  const a = table.lookUp(keys[0]!)
  const b = table.lookUp(keys[1]!)
  expect(Math.sign(table.compare(a, b))).toBe(Math.sign(compareKeys(keys[0]!, keys[1]!)))
  let listed = 0
  for (const fork of table.forks) for (let id = fork.lastKeyId; id >= 0; id = table.nextInFork(id)) listed++
  expect(listed).toBe(table.count)
})
