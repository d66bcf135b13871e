/** Calls to one host of computes, in terms of the domain. */
import { ComputeHostServiceClient, callUnary, createClient } from '@understory/rpc'
import type {
  CallOptions,
  ClientContext,
  ComputeSpec,
  Configuration,
  HostedCompute,
  TimelineRef,
} from '@understory/rpc'

/** Errors of all calls: those of the host, `unavailable`, `timeout` and `cancelled`. */
export interface ComputeHostClient {
  /** Idempotent. `configuration` is taken where the host has none or an older one. */
  ensureCompute(
    spec: ComputeSpec,
    configuration: Configuration | undefined,
    options?: CallOptions,
  ): Promise<void>
  /** Ends the compute first: as long as that takes. */
  removeCompute(timeline: TimelineRef, options?: CallOptions): Promise<void>
  computes(options?: CallOptions): Promise<readonly HostedCompute[]>
  close(): void
}

export const computeHostClient = (rpc: ClientContext, address: string): ComputeHostClient =>
  new GrpcComputeHost(createClient(rpc, ComputeHostServiceClient, address), `compute host ${address}`)

class GrpcComputeHost implements ComputeHostClient {
  readonly #client: ComputeHostServiceClient
  readonly #peer: string

  constructor(client: ComputeHostServiceClient, peer: string) {
    this.#client = client
    this.#peer = peer
  }

  async ensureCompute(
    spec: ComputeSpec,
    configuration: Configuration | undefined,
    options?: CallOptions,
  ): Promise<void> {
    const ensure = this.#client.ensureCompute.bind(this.#client)
    await callUnary(ensure, { spec, configuration }, this.#with(options))
  }

  async removeCompute(timeline: TimelineRef, options?: CallOptions): Promise<void> {
    await callUnary(this.#client.removeCompute.bind(this.#client), { timeline }, this.#with(options))
  }

  async computes(options?: CallOptions): Promise<readonly HostedCompute[]> {
    const list = this.#client.listComputes.bind(this.#client)
    return (await callUnary(list, {}, this.#with(options))).computes
  }

  close(): void {
    this.#client.close()
  }

  #with(options: CallOptions | undefined): CallOptions {
    return { peer: this.#peer, ...options }
  }
}
