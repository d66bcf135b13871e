// Goal: each compute of a host has a user of its own, whose processes end with it. Method: tables, and real processes
// of such a user.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { realClock } from '@understory/env'
import { expect, test } from 'vitest'
import { chooseUser, endUser, namedUsers, usableRange } from './compute-users.ts'

const WHOLE = '         0          0 4294967295\n'

test('a user is the same for a folder, and another for each', () => {
  const range = usableRange(WHOLE)
  expect(range).toEqual({ first: 1_879_048_192, count: 268_435_456 })
  const one = chooseUser('/data/computes/1', range, new Set())
  expect(chooseUser('/data/computes/1', range, new Set([1]))).toBe(one)
  expect(chooseUser('/data/computes/1', range, new Set([one]))).toBe(one + 1)
  expect(chooseUser('/other/computes/1', range, new Set())).not.toBe(one)
  const narrow = { first: 20_000, count: 3 }
  const taken = new Set<number>()
  for (let i = 0; i < 3; i++) taken.add(chooseUser(`/data/computes/${i}`, narrow, taken))
  expect(taken).toEqual(new Set([20_000, 20_001, 20_002]))
  expect(() => chooseUser('/data/computes/3', narrow, taken)).toThrow('no user left')
  expect(namedUsers().has(0)).toBe(true)
})

test('a user namespace with few users has a smaller range, and one with fewer none', () => {
  expect(usableRange('0 100000 65536\n').first).toBe(20_000)
  expect(usableRange('0 1000 1\n1 100000 65536\n').first).toBe(20_000)
  expect(() => usableRange('0 1000 1\n')).toThrow('no users')
})

test.runIf(process.geteuid?.() === 0)(
  'every process of a user is ended, those that start others too',
  async () => {
    const uid = chooseUser(`test ${process.pid}`, usableRange(WHOLE), namedUsers())
    const breeding = spawn('sh', ['-c', 'trap "" TERM INT; (while :; do sleep 0.02; done) & sleep 600'], {
      uid,
      gid: uid,
      cwd: '/',
      stdio: 'ignore',
    })
    await once(breeding, 'spawn')
    const ended = once(breeding, 'exit')
    await endUser(uid, realClock)
    expect(await ended).toEqual([null, 'SIGKILL'])
    await expect(endUser(0, realClock)).rejects.toThrow('is not of a compute')
    await expect(endUser(999, realClock)).rejects.toThrow('is not of a compute')
  },
)
