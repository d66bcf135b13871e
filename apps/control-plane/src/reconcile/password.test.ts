// Goal: of a password its verifier alone is kept, and a malformed password or verifier is refused. Method: plain calls.
import { seededRng } from '@understory/env'
import { describe, expect, test } from 'vitest'
import { isAskedFor, newPassword, scramVerifier } from './password.ts'

const rng = seededRng(1)
const NONE = { password: '', passwordVerifier: '' }
/** Of the example in RFC 7677, section 3, whose password is "pencil". */
const SALT = Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64')

test('the verifier of a known password is the known one', () => {
  expect(scramVerifier('pencil', SALT)).toBe(
    'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=',
  )
})

test('a random password has 128 bits, is returned once, and is what its verifier checks', () => {
  const first = newPassword(NONE, rng)
  expect(first.password).toMatch(/^[0-9a-f]{32}$/)
  expect(isAskedFor(first.verifier, { ...NONE, password: first.password })).toBe(true)
  expect(isAskedFor(first.verifier, { ...NONE, password: first.password.slice(1) })).toBe(false)
  expect(newPassword(NONE, rng)).not.toEqual(first)
})

test('one that the caller chose is not returned, and the same has another salt each time', () => {
  const chosen = { ...NONE, password: 'correct-horse' }
  const [a, b] = [newPassword(chosen, rng), newPassword(chosen, rng)]
  expect([a.password, b.password]).toEqual(['', ''])
  expect(a.verifier).not.toBe(b.verifier)
  for (const { verifier } of [a, b]) expect(isAskedFor(verifier, chosen)).toBe(true)
})

test('a verifier is taken as it is', () => {
  const passwordVerifier = scramVerifier('pencil', SALT, 10_000)
  expect(newPassword({ ...NONE, passwordVerifier }, rng)).toEqual({
    verifier: passwordVerifier,
    password: '',
  })
  expect(isAskedFor(passwordVerifier, { ...NONE, password: 'pencil' })).toBe(true)
})

describe('refused, without a word of what was given', () => {
  const good = scramVerifier('pencil', SALT)
  test.each([
    ['too short', { ...NONE, password: 'seven77' }],
    ['too long', { ...NONE, password: 'x'.repeat(129) }],
    ['not ASCII, which clients would prepare in their own ways', { ...NONE, password: 'pässwörter' }],
    ['a control character', { ...NONE, password: 'password\n' }],
    ['both', { password: 'password-1', passwordVerifier: good }],
    [
      'a password as a verifier, which Postgres would take for a password',
      { ...NONE, passwordVerifier: 'pencil' },
    ],
    ['md5', { ...NONE, passwordVerifier: `md5${'0'.repeat(32)}` }],
    ['few iterations', { ...NONE, passwordVerifier: good.replace('4096', '1') }],
    [
      'so many iterations that a login takes hours',
      { ...NONE, passwordVerifier: good.replace('4096', '99999999') },
    ],
    ['a key that is cut short', { ...NONE, passwordVerifier: good.slice(0, -8) }],
    [
      'a salt that is not whole',
      { ...NONE, passwordVerifier: good.replace('W22ZaJ0SNY7soEsUEjb6gQ==', 'W22') },
    ],
    ['a second line', { ...NONE, passwordVerifier: `${good}\n` }],
  ])('%s', (_, request) => {
    expect(() => newPassword(request, rng)).toThrow(
      expect.objectContaining({
        code: 'bad_argument',
        message: expect.not.stringMatching(/seven77|pässwörter|password-1|SCRAM-SHA-256\$/),
      }),
    )
  })
})
