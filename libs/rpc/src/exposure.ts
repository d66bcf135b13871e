/**
 * Refuses off loopback, unless the operator has said that the network is private (UNDERSTORY_INSECURE=yes): a
 * service that any client may call or listen to, and a token that is sent in the clear.
 */
import { InterceptingCall, Metadata } from '@grpc/grpc-js'
import type { Interceptor } from '@grpc/grpc-js'
import { fail } from '@understory/base'
import type { UnderstoryError } from '@understory/base'
import type { ClientSecurity, ServerSecurity } from './security.ts'
import { toServiceError } from './status.ts'

const SAY_ALOUD = 'where the network is private, say so with UNDERSTORY_INSECURE=yes.'

/** Whether the host, or host:port, names this machine alone. */
export function isLoopback(address: string): boolean {
  const host = address.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
}

/** Errors: `precondition` where a server at `host` would be open to its network. */
export function checkListener(host: string, { token, tls, insecure }: ServerSecurity): void {
  const missing = [...(tls === undefined ? ['TLS'] : []), ...(token === undefined ? ['a token'] : [])]
  if (missing.length === 0 || insecure === true || isLoopback(host)) return
  throw fail('precondition', `could not listen on "${host}" without ${missing.join(' and ')}`, {
    hint: `Set UNDERSTORY_TLS_CERT, UNDERSTORY_TLS_KEY, UNDERSTORY_TLS_CA and UNDERSTORY_TOKEN_FILE; ${SAY_ALOUD}`,
  })
}

/** Undefined where calls to `address` may be made. */
export function clearTokenProblem(
  address: string,
  { token, tls, insecure }: ClientSecurity,
): UnderstoryError | undefined {
  if (token === undefined || tls !== undefined || insecure === true || isLoopback(address)) return undefined
  return fail('precondition', `could not send the token to "${address}" without TLS`, {
    hint: `Set UNDERSTORY_TLS_CA, or give \`tls\`; ${SAY_ALOUD}`,
  })
}

/** Ends every call with the error before anything is sent; a moment later, when the caller listens for it. */
export const failing =
  (error: UnderstoryError): Interceptor =>
  (options, nextCall) =>
    new InterceptingCall(nextCall(options), {
      start: (_, listener) => {
        const { code, details, metadata = new Metadata() } = toServiceError(error)
        process.nextTick(() => listener.onReceiveStatus({ code, details, metadata }))
      },
      sendMessage: () => undefined,
      halfClose: () => undefined,
      cancel: () => undefined,
    })
