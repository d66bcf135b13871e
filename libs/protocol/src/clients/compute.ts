/** Calls to one compute, in terms of the domain. */
import { lsnFromBigint } from '@understory/base'
import type { Lsn } from '@understory/base'
import { ComputeServiceClient, callServerStream, callUnary, createClient } from '@understory/rpc'
import type {
  CallOptions,
  ClientContext,
  Configuration,
  GetComputeStatusResponse,
  VerifyTimelineResponse,
} from '@understory/rpc'

/** Of a tenant: a SCRAM-SHA-256 verifier, and a number that grows with every password. */
export interface PasswordVerifier {
  readonly verifier: string
  readonly generation: number
}

/** Errors of all calls: those of the compute, `unavailable`, `timeout` and `cancelled`. */
export interface ComputeClient {
  /** The message itself: the API shows it as it is. */
  status(options?: CallOptions): Promise<GetComputeStatusResponse>
  /** Undefined until the files were looked at once. */
  configuration(options?: CallOptions): Promise<Configuration | undefined>
  /** Resolves to the WAL insert position before the reload: the change is seen after it. */
  setFullPageWrites(on: boolean, options?: CallOptions): Promise<Lsn>
  /** A quorum has committed it when it resolves. */
  setPassword(password: PasswordVerifier, options?: CallOptions): Promise<void>
  /** Resolves to the redo position of the checkpoint. */
  runCheckpoint(options?: CallOptions): Promise<Lsn>
  /** Progress, and the result last. */
  verifyTimeline(options?: CallOptions): AsyncGenerator<VerifyTimelineResponse, void, void>
  close(): void
}

export const computeClient = (rpc: ClientContext, address: string): ComputeClient =>
  new GrpcCompute(createClient(rpc, ComputeServiceClient, address), `compute ${address}`)

class GrpcCompute implements ComputeClient {
  readonly #client: ComputeServiceClient
  readonly #peer: string

  constructor(client: ComputeServiceClient, peer: string) {
    this.#client = client
    this.#peer = peer
  }

  status(options?: CallOptions): Promise<GetComputeStatusResponse> {
    return callUnary(this.#client.getComputeStatus.bind(this.#client), {}, this.#with(options))
  }

  async configuration(options?: CallOptions): Promise<Configuration | undefined> {
    const get = this.#client.getConfiguration.bind(this.#client)
    return (await callUnary(get, {}, this.#with(options))).configuration
  }

  async setFullPageWrites(on: boolean, options?: CallOptions): Promise<Lsn> {
    const set = this.#client.setFullPageWrites.bind(this.#client)
    return lsnFromBigint((await callUnary(set, { on }, this.#with(options))).insertLsn)
  }

  async setPassword({ verifier, generation }: PasswordVerifier, options?: CallOptions): Promise<void> {
    const request = { verifier, generation: BigInt(generation) }
    await callUnary(this.#client.setPassword.bind(this.#client), request, this.#with(options))
  }

  async runCheckpoint(options?: CallOptions): Promise<Lsn> {
    const run = this.#client.runCheckpoint.bind(this.#client)
    return lsnFromBigint((await callUnary(run, {}, this.#with(options))).redoLsn)
  }

  verifyTimeline(options?: CallOptions): AsyncGenerator<VerifyTimelineResponse, void, void> {
    return callServerStream(this.#client.verifyTimeline.bind(this.#client), {}, this.#with(options))
  }

  close(): void {
    this.#client.close()
  }

  #with(options: CallOptions | undefined): CallOptions {
    return { peer: this.#peer, ...options }
  }
}
