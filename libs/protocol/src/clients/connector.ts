/** Clients of all kinds of nodes: by gRPC, or of nodes in memory (memory/nodes.ts). */
import type { ClientContext } from '@understory/rpc'
import { computeHostClient } from './compute-host.ts'
import type { ComputeHostClient } from './compute-host.ts'
import { computeClient } from './compute.ts'
import type { ComputeClient } from './compute.ts'
import { pageserverClient } from './pageserver.ts'
import type { PageserverClient } from './pageserver.ts'
import { safekeeperClient } from './safekeeper.ts'
import type { SafekeeperClient } from './safekeeper.ts'

/** Each call gives a new client, which its caller closes; the address is host:port. */
export interface NodeConnector {
  safekeeper(address: string): SafekeeperClient
  pageserver(address: string): PageserverClient
  compute(address: string): ComputeClient
  computeHost(address: string): ComputeHostClient
}

export const grpcConnector = (rpc: ClientContext): NodeConnector => ({
  safekeeper: (address) => safekeeperClient(rpc, address),
  pageserver: (address) => pageserverClient(rpc, address),
  compute: (address) => computeClient(rpc, address),
  computeHost: (address) => computeHostClient(rpc, address),
})
