/** The proposer of a compute: the driver of libs/consensus over gRPC, with the machine's own clock and chance. */
import { ProposerDriver } from '@understory/consensus/driver'
import type { DriverOptions } from '@understory/consensus/driver'
import { realRng } from '@understory/env'
import type { ClientContext } from '@understory/rpc'
import { grpcTransport } from './grpc-transport.ts'
import type { ProposerIdentity } from './grpc-transport.ts'

export interface WalProposerOptions
  extends ProposerIdentity, Omit<DriverOptions, 'transport' | 'rng' | 'defer'> {
  readonly rpc: ClientContext
}

export class WalProposer extends ProposerDriver {
  constructor({ rpc, timeline, postgres, nodeId, ...options }: WalProposerOptions) {
    super({
      ...options,
      transport: grpcTransport(rpc, { timeline, postgres, nodeId }),
      rng: realRng,
      defer: (work) => process.nextTick(work),
    })
  }
}
