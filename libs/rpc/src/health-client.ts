/** Asks a server whether it serves, as supervisors do: grpc.health.v1, which needs no token. */
import { makeClientConstructor } from '@grpc/grpc-js'
import { callUnary, createClient } from './client.ts'
import type { CallOptions } from './client.ts'
import type { ClientContext } from './context.ts'
import { HEALTH_SERVING, HealthService } from './health.ts'

const HealthClient = makeClientConstructor(HealthService, 'grpc.health.v1.Health')

/** Error: who cannot be reached, or does not know `service`. The whole server is asked where that is empty. */
export async function isServing(
  context: ClientContext,
  address: string,
  options: Omit<CallOptions, 'peer'> & { readonly service?: string } = {},
): Promise<boolean> {
  const { service = '', ...call } = options
  const client = createClient(context, HealthClient, address)
  try {
    type Check = Parameters<typeof callUnary<{ service: string }, { status: number }>>[0]
    const check = client['check']?.bind(client) as Check
    const { status } = await callUnary(check, { service }, { ...call, peer: address })
    return status === HEALTH_SERVING
  } finally {
    client.close()
  }
}
