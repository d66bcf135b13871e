/**
 * Passwords of tenants. The store has the SCRAM-SHA-256 verifier alone, with which Postgres checks the password and
 * with which no client can log in. A random password exists in one answer and nowhere else.
 */
import { createHash, createHmac, pbkdf2Sync, timingSafeEqual } from 'node:crypto'
import { fail } from '@understory/base'
import type { Rng } from '@understory/env'
import { SCRAM_ITERATIONS, parseScramVerifier } from '@understory/protocol'

/** As PostgreSQL writes them: SCRAM_DEFAULT_SALT_LEN (common/scram-common.h, 16 to 18). */
const SALT_BYTES = 16
const KEY_BYTES = 32
const RANDOM_BYTES = 16

/** A password as a caller wants it: at most one of the two is not empty. */
export interface PasswordRequest {
  readonly password: string
  readonly passwordVerifier: string
}

export interface NewPassword {
  readonly verifier: string
  /** The random password; empty where the caller chose it. */
  readonly password: string
}

/** Errors: `bad_argument` where it is not a password or not a verifier. */
export function newPassword({ password, passwordVerifier }: PasswordRequest, rng: Rng): NewPassword {
  if (password !== '' && passwordVerifier !== '')
    throw fail('bad_argument', 'a password and a verifier are given', { hint: 'Give one of them.' })
  if (passwordVerifier !== '') {
    parseScramVerifier(passwordVerifier)
    return { verifier: passwordVerifier, password: '' }
  }
  if (password !== '') {
    checkPassword(password)
    return { verifier: scramVerifier(password, rng.bytes(SALT_BYTES)), password: '' }
  }
  const random = Buffer.from(rng.bytes(RANDOM_BYTES)).toString('hex')
  return { verifier: scramVerifier(random, rng.bytes(SALT_BYTES)), password: random }
}

/** Whether `verifier` is what the caller asks for; true where the caller leaves the choice to us. */
export function isAskedFor(verifier: string, { password, passwordVerifier }: PasswordRequest): boolean {
  if (passwordVerifier !== '') return passwordVerifier === verifier
  if (password === '') return true
  const { iterations, salt } = parseScramVerifier(verifier)
  const [theirs, ours] = [scramVerifier(password, salt, iterations), verifier].map((text) =>
    Buffer.from(text),
  )
  return (
    theirs !== undefined &&
    ours !== undefined &&
    theirs.length === ours.length &&
    timingSafeEqual(theirs, ours)
  )
}

/** As scram_build_secret (common/scram-common.c, 16 to 18) writes it. */
export function scramVerifier(password: string, salt: Uint8Array, iterations = SCRAM_ITERATIONS): string {
  const salted = pbkdf2Sync(password, salt, iterations, KEY_BYTES, 'sha256')
  const keyOf = (name: string): Buffer => createHmac('sha256', salted).update(name).digest()
  const storedKey = createHash('sha256').update(keyOf('Client Key')).digest('base64')
  const serverKey = keyOf('Server Key').toString('base64')
  return `SCRAM-SHA-256$${iterations}:${Buffer.from(salt).toString('base64')}$${storedKey}:${serverKey}`
}

/** SASLprep (common/saslprep.c) changes no printable ASCII, so that every client makes the same key of it. */
function checkPassword(password: string): void {
  if (/^[\x21-\x7e]{8,128}$/.test(password)) return
  throw fail('bad_argument', 'the password is not 8 to 128 printable ASCII characters without spaces', {
    hint: 'Choose another, or give its SCRAM-SHA-256 verifier.',
  })
}
