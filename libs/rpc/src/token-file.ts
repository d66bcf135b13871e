/**
 * The file with the tokens of an installation (UNDERSTORY_TOKEN_FILE), one a line. The first is sent with every call;
 * all are taken from callers. The file is read again every 30 s, so a token is replaced without an outage: add the new
 * one as a second line everywhere, then make it the first, then remove the old one. A file that cannot be used is left
 * for the next time: until then the tokens of before count.
 */
import { readFileSync } from 'node:fs'
import { describeError, fail } from '@understory/base'
import type { Clock, Log } from '@understory/env'

const REFRESH_MS = 30_000
/** Each is compared with every call. */
const TOKENS_COUNT_MAX = 16
/** What HTTP takes as the value of a header. */
const TOKEN = /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/

export class TokenFile {
  readonly #path: string
  #tokens: readonly string[]
  /** Why the file could not be used the last time, so that it is logged once. */
  #problem: string | undefined

  /** Reads it. Errors: `bad_argument`. */
  constructor(path: string) {
    this.#path = path
    this.#tokens = readTokens(path)
  }

  /** At least one; the first is the one to send. */
  get tokens(): readonly string[] {
    return this.#tokens
  }

  /** Reads the file again and again, as long as the process lives. */
  watch(clock: Clock, log: Log, refreshMs = REFRESH_MS): void {
    clock.setTimer(refreshMs, () => {
      this.refresh(log)
      this.watch(clock, log, refreshMs)
    })
  }

  /** Takes over what is new. */
  refresh(log: Log): void {
    try {
      const tokens = readTokens(this.#path)
      this.#problem = undefined
      if (tokens.join('\n') === this.#tokens.join('\n')) return
      this.#tokens = tokens
      log.info('tokens_renewed', { count: tokens.length })
    } catch (error) {
      const problem = describeError(error)
      if (problem !== this.#problem) log.warn('tokens_not_read', { problem })
      this.#problem = problem
    }
  }
}

function readTokens(path: string): string[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw fail('bad_argument', `UNDERSTORY_TOKEN_FILE: could not read "${path}"`, {
      detail: describeError(cause),
      hint: 'Name a file that this user may read.',
      cause,
    })
  }
  const lines = text.split('\n').map((line) => line.trim())
  const tokens = lines.filter((line) => line !== '')
  if (tokens.length > TOKENS_COUNT_MAX) {
    throw fail(
      'bad_argument',
      `"${path}" has ${tokens.length} tokens, at most ${TOKENS_COUNT_MAX} are taken`,
      {
        hint: 'Remove those that are not in use.',
      },
    )
  }
  if (tokens.length === 0) throw emptyToken()
  for (const token of tokens) checkToken(token, `line ${lines.indexOf(token) + 1} of "${path}"`)
  return tokens
}

const emptyToken = (): Error =>
  fail('bad_argument', 'the token is empty', { hint: 'Put a long random text there.' })

/** Errors: `bad_argument` that names `where`, and not the token. */
export function checkToken(token: string, where: string): void {
  if (token === '') throw emptyToken()
  if (TOKEN.test(token)) return
  throw fail('bad_argument', `${where} has characters that a token cannot have`, {
    hint: 'Use letters, digits and punctuation of ASCII, such as the output of "openssl rand -hex 32".',
  })
}
