/**
 * The one compute of a pod: the same service as a compute host's, for one timeline. The wanted spec lies in `spec`, so
 * that this process continues by itself when it is started again; when the compute ends, the pod ends.
 */
import { readFile } from 'node:fs/promises'
import { fail } from '@understory/base'
import { realDisk } from '@understory/env'
import { checkSpec, decodeSpec, encodeSpec } from '@understory/protocol'
import type { CheckedSpec } from '@understory/protocol'
import type { ComputeSpec, Configuration, HostedCompute } from '@understory/rpc'
import { Compute } from '../compute/compute.ts'
import type { ComputeParts } from '../compute/compute.ts'
import type { ComputeEnd } from '../compute/lifecycle.ts'
import type { ComputeHosting } from './host.ts'
import { readKeptIfWhole, takePublished, toMessage } from '../postgres/configuration-store.ts'
import type { RunningCompute } from '../serve/service.ts'

interface PodParts extends Omit<ComputeParts, 'spec'> {
  readonly timelineId: string
  /** host:port at which this process is found. */
  readonly address: string
}

export class PodCompute implements ComputeHosting {
  /** How the compute ended; also where it never began. */
  readonly ended: Promise<ComputeEnd>
  readonly #parts: PodParts
  readonly #end = Promise.withResolvers<ComputeEnd>()
  #running: RunningCompute | undefined
  #isStopping = false

  constructor(parts: PodParts) {
    this.#parts = parts
    this.ended = this.#end.promise
  }

  /** Continues with the spec of the last run of this process. */
  async load(): Promise<void> {
    const text = await readFile(this.#parts.files.spec, 'utf8').catch(() => undefined)
    if (text !== undefined) this.#begin(decodeSpec(text.trim()))
  }

  async ensure(wanted: ComputeSpec | undefined, configuration?: Configuration): Promise<void> {
    const spec = checkSpec(wanted)
    if (spec.timeline.timelineId !== this.#parts.timelineId) {
      throw fail('bad_argument', `this pod is for timeline ${this.#parts.timelineId} alone`)
    }
    if (this.#isStopping) throw fail('unavailable', 'this pod is ending')
    // Before the compute begins: its Postgres starts with it.
    if (configuration !== undefined) await takePublished(this.#parts.files, configuration)
    const known = this.#running?.spec
    if (known !== undefined && spec.specGeneration < known.specGeneration) {
      throw fail('stale', `spec generation ${spec.specGeneration} is older than ${known.specGeneration}`)
    }
    if (known !== undefined && spec.specGeneration === known.specGeneration) return
    await realDisk.durableReplace(this.#parts.files.spec, Buffer.from(`${encodeSpec(spec)}\n`))
    if (this.#running === undefined) return this.#begin(spec)
    this.#running.compute.updateSpec(spec)
    this.#running = { ...this.#running, spec }
  }

  remove(): Promise<void> {
    this.requestStop(60_000)
    return Promise.resolve()
  }

  async list(): Promise<HostedCompute[]> {
    const kept = await readKeptIfWhole(this.#parts.files)
    return [
      {
        timeline: this.#running?.spec.timeline ?? { tenantId: '', timelineId: this.#parts.timelineId },
        pid: process.pid,
        address: this.#running === undefined ? '' : this.#parts.address,
        starts: 1,
        configurationVersion: kept === undefined ? undefined : toMessage(kept).version,
      },
    ]
  }

  current(): RunningCompute {
    if (this.#running !== undefined) return this.#running
    throw fail('unavailable', 'this pod has no compute spec yet', {
      hint: 'The control plane sends it; see that it runs.',
    })
  }

  get isOpen(): boolean {
    return this.#running?.compute.view().state === 'running'
  }

  requestStop(deadlineMs: number): void {
    this.#isStopping = true
    if (this.#running === undefined) this.#end.resolve({ kind: 'stopped', clean: true })
    else this.#running.compute.requestStop(deadlineMs)
  }

  #begin(spec: CheckedSpec): void {
    const compute = new Compute({ ...this.#parts, spec })
    this.#running = { compute, spec }
    compute.run().then(this.#end.resolve, this.#end.reject)
  }
}
