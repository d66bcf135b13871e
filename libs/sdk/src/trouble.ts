/** Trouble on the way to a server: what it is, and what to do, which the server cannot say itself. */
import { UnderstoryError, isErrorCode, fail } from '@understory/base'

/** A server that stops cancels its calls. Where `signal` has not fired that is a loss, which may pass. */
export function asLoss(error: unknown, { signal, peer }: { signal: AbortSignal; peer: string }): unknown {
  if (!isErrorCode(error, 'cancelled') || signal.aborted) return error
  return fail('unavailable', `${peer} ended the call`, { cause: error })
}

/** Reports of the connection, each with its advice. The first that fits counts. */
const HINTS: readonly (readonly [RegExp, string])[] = [
  [/wrong version number|packet length too long/i, 'There is no TLS at that address: leave `tls` out.'],
  [
    /does not match certificate|altnames/i,
    'Give the name that is in its certificate as `tls.serverName`, if it is the right server.',
  ],
  [
    /self-signed certificate|unable to (?:verify|get)|certificate has expired|issuer certificate/i,
    'Give the certificate of its authority as `tls.ca`.',
  ],
  [/ECONNREFUSED/, 'See that it runs, and that host and port are right.'],
  [/name resolution|ENOTFOUND|EAI_AGAIN/i, 'See that the name is right and known here.'],
  [
    /last error: failed to connect|ECONNRESET|socket hang up|connection (?:dropped|closed)/i,
    'See that it is the port of the API, and give `tls` if that speaks TLS.',
  ],
]

/** The same error, with what to do, where it is not said yet. */
export function withHint(error: unknown): unknown {
  if (!(error instanceof UnderstoryError) || error.hint !== undefined) return error
  const { code, message, detail = '' } = error
  const hint =
    code === 'timeout'
      ? 'Give it more time, or see what keeps it.'
      : code === 'unavailable'
        ? (HINTS.find(([pattern]) => pattern.test(detail))?.[1] ??
          'See that it runs and can be reached from here.')
        : undefined
  if (hint === undefined) return error
  return new UnderstoryError(code, message, {
    hint,
    cause: error.cause ?? error,
    ...(detail === '' ? {} : { detail }),
  })
}
