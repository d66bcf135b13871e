/** SCRAM-SHA-256 verifiers as PostgreSQL keeps them in pg_authid. */
import { fail } from '@understory/base'

/** SCRAM_SHA_256_DEFAULT_ITERATIONS (common/scram-common.h, 16 to 18). */
export const SCRAM_ITERATIONS = 4_096
/** The iterations that a client computes at each login; more would only make logins slow. */
const ITERATIONS_MAX = 10_000_000

export interface ScramVerifier {
  readonly iterations: number
  readonly salt: Buffer
}

/**
 * The verifiers that parse_scram_secret (libpq/auth-scram.c) accepts, within bounds: all else Postgres would take for a
 * password. Error: refused `bad_argument`.
 */
export function parseScramVerifier(text: string): ScramVerifier {
  const [, iterations, salt = '', ...keys] =
    /^SCRAM-SHA-256\$(\d{1,8}):([A-Za-z0-9+/]+={0,2})\$([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{43}=)$/.exec(
      text,
    ) ?? []
  const isWhole = [salt, ...keys].every(
    (base64) => Buffer.from(base64, 'base64').toString('base64') === base64,
  )
  const count = Number(iterations)
  if (isWhole && count >= SCRAM_ITERATIONS && count <= ITERATIONS_MAX)
    return { iterations: count, salt: Buffer.from(salt, 'base64') }
  throw fail('bad_argument', 'the verifier is not a SCRAM-SHA-256 verifier', {
    hint: `Write it as SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY, with ${SCRAM_ITERATIONS} iterations or more, as in pg_authid.`,
  })
}
