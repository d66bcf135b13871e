/**
 * The client for programs of this repository, whose TLS and token come from files and may be renewed. It is not part of
 * the published package.
 */
import type { ClientContext } from '@understory/rpc'
import type { UnderstoryClient } from './api.ts'
import { Calls } from './calls.ts'
import { clientOver } from './client-over.ts'
import { readClientOptions } from './options.ts'
import type { ClientOptions } from './options.ts'

/** With the TLS and token of `rpc`. */
export function createClientIn(
  rpc: ClientContext,
  options: Omit<ClientOptions, 'token' | 'tls' | 'insecure'>,
): UnderstoryClient {
  const { credentials: _, ...settings } = readClientOptions(options)
  return clientOver(new Calls({ ...settings, rpc }))
}
