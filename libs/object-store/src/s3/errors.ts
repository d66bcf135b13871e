/** What S3 and the network say, in the store's words. */
import { fail } from '@understory/base'

interface S3Failure {
  readonly name?: string
  readonly code?: string
  readonly message?: string
  readonly $metadata?: { readonly httpStatusCode?: number }
  readonly $retryable?: unknown
}

/** Codes of the network and names of the SDK that mean that no answer came. */
const NETWORK_FAILURES = new Set([
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'EAI_AGAIN',
  'EADDRNOTAVAIL',
  'ECONNABORTED',
  'TimeoutError',
  'NetworkingError',
  'ERR_STREAM_PREMATURE_CLOSE',
])
/** The codes that a wrong endpoint causes as well. */
const UNREACHABLE_CODES = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND'])
const RETRYABLE_NAMES = new Set([
  'SlowDown',
  'SlowDownRead',
  'SlowDownWrite',
  'RequestTimeout',
  'InternalError',
  'ServiceUnavailable',
  'Throttling',
  'ThrottlingException',
  'TooManyRequests',
  'OperationAborted',
  'ConditionalRequestConflict',
  'BadDigest',
  'XMinioServerNotInitialized',
])
const BAD_CREDENTIALS = new Set([
  'InvalidAccessKeyId',
  'SignatureDoesNotMatch',
  'InvalidToken',
  'ExpiredToken',
  'ExpiredTokenException',
  'TokenRefreshRequired',
  'AuthorizationHeaderMalformed',
  'CredentialsProviderError',
  'UnrecognizedClientException',
])

export function statusOf(error: unknown): number | undefined {
  return (error as S3Failure).$metadata?.httpStatusCode
}

export function nameOf(error: unknown): string {
  const { name, code } = error as S3Failure
  return name === undefined || name === 'Error' ? (code ?? 'unknown') : name
}

/** `what` completes "could not …"; `where` is the store's description. */
export function s3Error(error: unknown, what: string, where: string): Error {
  const { code, message: said = String(error), $retryable } = error as S3Failure
  const name = nameOf(error)
  const status = statusOf(error)
  const message = `could not ${what} in ${where}`
  const extra = { detail: `${name}: ${said}`, cause: error }
  if (name === 'NoSuchBucket') {
    return fail('precondition', `bucket of ${where} does not exist`, {
      ...extra,
      hint: 'Create the bucket.',
    })
  }
  if (BAD_CREDENTIALS.has(name)) {
    const hint = 'Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and the region.'
    return fail('denied', `credentials for ${where} are missing or wrong`, { ...extra, hint })
  }
  if (name === 'RequestTimeTooSkewed') {
    return fail('denied', message, { ...extra, hint: 'Set the clock of this machine.' })
  }
  if (status === 401 || status === 403) {
    const hint = 'Allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket for these credentials.'
    return fail('denied', message, { ...extra, hint })
  }
  if (status === 301 || name === 'PermanentRedirect') {
    return fail('precondition', message, {
      ...extra,
      hint: 'The bucket is in another region: name it in the URL.',
    })
  }
  if (UNREACHABLE_CODES.has(code ?? '') || UNREACHABLE_CODES.has(name)) {
    const hint = 'See that the store runs, and that its endpoint is right and in reach.'
    return fail('unavailable', message, { ...extra, hint })
  }
  const isOutage =
    NETWORK_FAILURES.has(name) ||
    NETWORK_FAILURES.has(code ?? '') ||
    RETRYABLE_NAMES.has(name) ||
    $retryable !== undefined ||
    (status !== undefined && (status >= 500 || status === 429 || status === 408))
  return isOutage ? fail('unavailable', message, extra) : fail('precondition', message, extra)
}
