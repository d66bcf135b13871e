/** A compute without Postgres, and a host of such. */
import { LSN_ZERO, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { ComputeState, GetComputeStatusResponse } from '@understory/rpc'
import type {
  CallOptions,
  ComputeSpec,
  Configuration,
  HostedCompute,
  TimelineRef,
  VerifyTimelineResponse,
} from '@understory/rpc'
import type { ComputeHostClient } from '../compute-host.ts'
import type { ComputeClient, PasswordVerifier } from '../compute.ts'
import { MemoryNode } from './node.ts'

export class MemoryCompute extends MemoryNode implements ComputeClient {
  /** Its own report: running, unless a test says otherwise. */
  answer: GetComputeStatusResponse = GetComputeStatusResponse.fromPartial({
    state: ComputeState.COMPUTE_STATE_RUNNING,
  })
  files: Configuration | undefined
  fullPageWrites: 'on' | 'off' = 'on'
  password: PasswordVerifier | undefined
  /** The answers to the next switch and the next checkpoint. */
  insertLsn: Lsn = LSN_ZERO
  redoLsn: Lsn = LSN_ZERO

  constructor(address: string) {
    super(`compute ${address}`)
  }

  async status(options?: CallOptions): Promise<GetComputeStatusResponse> {
    await this.reach('status', options)
    return this.answer
  }

  async configuration(options?: CallOptions): Promise<Configuration | undefined> {
    await this.reach('configuration', options)
    return this.files
  }

  async setFullPageWrites(on: boolean, options?: CallOptions): Promise<Lsn> {
    await this.reach('setFullPageWrites', options)
    this.fullPageWrites = on ? 'on' : 'off'
    return this.insertLsn
  }

  async setPassword(password: PasswordVerifier, options?: CallOptions): Promise<void> {
    await this.reach('setPassword', options)
    const known = this.password?.generation ?? 0
    if (password.generation < known)
      throw fail('stale', `password ${known} is newer than ${password.generation}`)
    this.password = password
  }

  async runCheckpoint(options?: CallOptions): Promise<Lsn> {
    await this.reach('runCheckpoint', options)
    return this.redoLsn
  }

  async *verifyTimeline(options?: CallOptions): AsyncGenerator<VerifyTimelineResponse, void, void> {
    await this.reach('verifyTimeline', options)
    yield { pagesDone: 0n, pagesTotal: 0n, result: undefined }
  }
}

export class MemoryComputeHost extends MemoryNode implements ComputeHostClient {
  readonly specs = new Map<string, ComputeSpec>()
  readonly #configurations = new Map<string, Configuration>()
  readonly #addressOf: (timelineId: string) => string

  /** `addressOf` a timeline's compute, once it runs here. */
  constructor(nodeId: string, addressOf: (timelineId: string) => string) {
    super(`compute host "${nodeId}"`)
    this.#addressOf = addressOf
  }

  async ensureCompute(
    spec: ComputeSpec,
    configuration: Configuration | undefined,
    options?: CallOptions,
  ): Promise<void> {
    await this.reach('ensureCompute', options)
    const { timelineId } = spec.timeline ?? { timelineId: '' }
    const known = this.specs.get(timelineId)?.specGeneration ?? 0n
    if (spec.specGeneration < known) throw fail('stale', `spec ${known} is newer`)
    this.specs.set(timelineId, spec)
    if (configuration !== undefined) this.#configurations.set(timelineId, configuration)
  }

  async removeCompute({ timelineId }: TimelineRef, options?: CallOptions): Promise<void> {
    await this.reach('removeCompute', options)
    this.specs.delete(timelineId)
    this.#configurations.delete(timelineId)
  }

  async computes(options?: CallOptions): Promise<readonly HostedCompute[]> {
    await this.reach('computes', options)
    return [...this.specs].map(([timelineId, { timeline }]) => ({
      timeline,
      pid: 1,
      address: this.#addressOf(timelineId),
      starts: 1,
      configurationVersion: this.#configurations.get(timelineId)?.version,
    }))
  }
}
