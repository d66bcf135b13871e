import type { UnderstoryClient } from './api.ts'
import { Calls } from './calls.ts'
import { clientOver } from './client-over.ts'
import { readClientOptions } from './options.ts'
import type { ClientOptions } from './options.ts'

export function createClient(options: ClientOptions): UnderstoryClient {
  const { credentials, ...settings } = readClientOptions(options)
  return clientOver(new Calls({ ...settings, rpc: { security: credentials ?? {} } }))
}
