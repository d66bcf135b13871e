/**
 * The one place where errors cross the network. An `UnderstoryError` travels as its gRPC status, with code, detail and
 * hint in the metadata `understory-error-bin` (JSON), and comes out the same on the other side. Anything else a
 * handler throws is a bug of the server: INTERNAL, with its text in the server's log only.
 */
import { ERROR_CODES, UnderstoryError, fail } from '@understory/base'
import type { ErrorCode } from '@understory/base'
import { Metadata, status } from '@grpc/grpc-js'
import type { ServiceError } from '@grpc/grpc-js'

const METADATA_KEY = 'understory-error-bin'

/**
 * Longest texts of an error in characters. They travel as headers, up to nine bytes a character, and a client closes a
 * whole connection, with all its calls, for headers of 64 KiB; errors quote what callers sent.
 */
const MESSAGE_LENGTH_MAX = 1_000
const DETAIL_LENGTH_MAX = 3_000
const HINT_LENGTH_MAX = 1_000

/** At most `lengthMax` characters, and such that can be encoded: half a character cannot. */
const short = (text: string, lengthMax: number): string =>
  (text.length <= lengthMax ? text : `${text.slice(0, lengthMax)}...`).toWellFormed()

/** The error that a handler passes to gRPC for one that it caught. Long texts are cut. */
export function toServiceError(error: unknown): Pick<ServiceError, 'code' | 'details'> & {
  readonly metadata?: Metadata
} {
  if (!(error instanceof UnderstoryError)) return { code: status.INTERNAL, details: 'internal error' }
  const metadata = new Metadata()
  const { code } = error
  const detail = error.detail === undefined ? undefined : short(error.detail, DETAIL_LENGTH_MAX)
  const hint = error.hint === undefined ? undefined : short(error.hint, HINT_LENGTH_MAX)
  metadata.set(METADATA_KEY, Buffer.from(JSON.stringify({ code, detail, hint })))
  const details = short(error.message, MESSAGE_LENGTH_MAX)
  return { code: status[ERROR_CODES[code].status], details, metadata }
}

/** An error that is part of a message: of one subscription among many on a stream. */
export interface PeerError {
  readonly code: string
  readonly message: string
  /** Empty where there is none. */
  readonly detail: string
  readonly hint: string
}

/** Long texts are cut. */
export const toPeerError = ({ code, message, detail = '', hint = '' }: UnderstoryError): PeerError => ({
  code,
  message: short(message, MESSAGE_LENGTH_MAX),
  detail: short(detail, DETAIL_LENGTH_MAX),
  hint: short(hint, HINT_LENGTH_MAX),
})

/** `unavailable` for a code that is not known here: that of a newer program. */
export function fromPeerError({ code, message, detail, hint }: PeerError): UnderstoryError {
  const known = Object.hasOwn(ERROR_CODES, code) ? (code as ErrorCode) : 'unavailable'
  return new UnderstoryError(known, message, {
    ...(detail === '' ? {} : { detail }),
    ...(hint === '' ? {} : { hint }),
  })
}

/** The error that a caller throws for one of gRPC. `what` names the peer, such as `pageserver 127.0.0.1:5000`. */
export function fromServiceError(error: unknown, what: string): Error {
  if (!isServiceError(error))
    return error instanceof Error ? error : new Error(String(error), { cause: error })
  const [packed] = error.metadata?.get(METADATA_KEY) ?? []
  const own = Buffer.isBuffer(packed) ? readPacked(packed) : undefined
  if (own !== undefined) return new UnderstoryError(own.code, error.details, { ...own.extra, cause: error })
  switch (error.code) {
    case status.UNAVAILABLE:
      return fail('unavailable', `${what} is not reachable`, { detail: error.details, cause: error })
    case status.DEADLINE_EXCEEDED:
      return fail('timeout', `${what} did not answer in time`, { detail: error.details, cause: error })
    case status.CANCELLED:
      return fail('cancelled', `call to ${what} was cancelled`, { cause: error })
    case status.INVALID_ARGUMENT:
    case status.UNIMPLEMENTED:
    // A message that is longer than the other side, or this one, takes.
    case status.RESOURCE_EXHAUSTED:
      return fail('unsupported', `${what} refused the call`, { detail: error.details, cause: error })
    default:
      return fail('unavailable', `${what} failed`, {
        detail: `${status[error.code]}: ${error.details}`,
        cause: error,
      })
  }
}

interface Packed {
  readonly code: ErrorCode
  readonly extra: { readonly detail?: string; readonly hint?: string }
}

/** Undefined where it is not an error of ours: the server may be any program. */
function readPacked(packed: Buffer): Packed | undefined {
  let json: unknown
  try {
    json = JSON.parse(packed.toString())
  } catch {
    return undefined
  }
  if (typeof json !== 'object' || json === null) return undefined
  const { code, detail, hint } = json as Record<string, unknown>
  if (typeof code !== 'string' || !Object.hasOwn(ERROR_CODES, code)) return undefined
  const extra = {
    ...(typeof detail === 'string' ? { detail } : {}),
    ...(typeof hint === 'string' ? { hint } : {}),
  }
  return { code: code as ErrorCode, extra }
}

/** `OK` and its like; `UNKNOWN` for a number that is none. */
export const statusName = (code: number | undefined): string => status[code ?? status.UNKNOWN] ?? 'UNKNOWN'

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && 'code' in error && typeof error.code === 'number' && 'details' in error
}
