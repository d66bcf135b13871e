/**
 * Where computes run, and who starts them there: a compute host (host-driver.ts) or Kubernetes (kubernetes/). Either
 * way a compute answers as `ComputeHostService` and `ComputeService` do.
 */
import type { ComputeSpec, Configuration, HostedCompute, TimelineRef } from '@understory/rpc'
import { isNewer } from '../documents/configuration-store.ts'
import type { NodeClients } from '../clients/node-clients.ts'

/** Where a compute is, as the timeline's document has it. */
export interface ComputePlace {
  readonly tenantName: string
  readonly timelineName: string
  readonly timeline: TimelineRef
  /** Last known address of its compute host; undefined where computes are not on hosts. */
  readonly hostAddress: string | undefined
}

/** Each call may be made again at any time. Errors: `unavailable` and `timeout` where the other side is away. */
export interface ComputeDriver {
  /** Whether a timeline is given one of the compute hosts that are announced. */
  readonly usesHosts: boolean
  /** The compute, or undefined where there is none. */
  find(place: ComputePlace): Promise<HostedCompute | undefined>
  /**
   * Makes it run as `spec` says, with `configuration` where what it has is older. Resolves to what keeps it from that,
   * in one line: empty where nothing does that is known.
   */
  ensure(place: ComputePlace, spec: ComputeSpec, configuration: Configuration | undefined): Promise<string>
  /** Ends it and forgets it; it is gone when this resolves. */
  remove(place: ComputePlace): Promise<void>
}

/** With the configuration, where the host lost what it had or never had any. */
export async function sendSpec(
  clients: NodeClients,
  address: string,
  timeline: TimelineRef,
  spec: ComputeSpec,
  configuration: Configuration | undefined,
): Promise<void> {
  const hosted = await clients.hostedCompute(address, timeline)
  const isBehind = isNewer(configuration?.version, hosted?.configurationVersion)
  await clients.ensureCompute(address, spec, isBehind ? configuration : undefined)
}
