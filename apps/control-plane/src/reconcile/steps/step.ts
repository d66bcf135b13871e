/**
 * One thing that a timeline may lack. A pass of the reconciler runs the steps in their order over one observation; each
 * looks whether its thing is missing, and does the next part of it. Every part is idempotent, so a pass may be cut at
 * any point and be run again, also by another control plane.
 */
import type { Clock, Log, Rng } from '@understory/env'
import type { TimelineRef } from '@understory/rpc'
import type { NodeClients } from '../../clients/node-clients.ts'
import type { ComputeDriver } from '../../computes/compute-driver.ts'
import type { Nodes } from '../../documents/nodes.ts'
import type { TenantDocument } from '../../documents/tenant-document.ts'
import type { TimelineDocument } from '../../documents/timeline-document.ts'
import type { ReconcileObserver } from '../../telemetry/reconcile-observer.ts'
import type { MembershipReconciler } from '../membership-reconciler.ts'
import type { Observation } from '../observation.ts'
import type { PublishedConfiguration } from '../published-configuration.ts'
import type { Stores } from '../retirement.ts'
import type { ShardFollowers } from '../shard-followers.ts'
import type { TimelineProblems } from '../timeline-problems.ts'

export interface StepContext {
  readonly tenant: TenantDocument
  /** As stored last. */
  readonly timeline: TimelineDocument
  /** Made by the first call in a pass; later ones give the same. */
  readonly observe: () => Promise<Observation>
}

/** The outcome of a step, and the document where the step has changed it. */
export type StepOutcome =
  /** Nothing is left to do here; the next step. */
  | { readonly kind: 'settled'; readonly timeline?: TimelineDocument }
  /** Something is missing that no other step waits for; the next step, and another pass soon. */
  | { readonly kind: 'unsettled'; readonly timeline?: TimelineDocument }
  /** The steps after it need what is missing: another pass soon. */
  | { readonly kind: 'wait' }
  /** The observation does not hold any more: another pass at once. */
  | { readonly kind: 'again' }
  /** The timeline is gone. */
  | { readonly kind: 'end' }

export type Step = (context: StepContext) => Promise<StepOutcome>

/** The parts that steps act with. */
export interface StepParts extends Stores {
  readonly ref: TimelineRef
  readonly configuration: PublishedConfiguration
  readonly nodes: Pick<Nodes, 'known' | 'list'>
  readonly clients: NodeClients
  readonly computes: ComputeDriver
  /** How long a safekeeper may be away or damaged before another takes its place, in milliseconds; 0 = for ever. */
  readonly replaceAfterMs: number
  /** Undefined where nothing is measured. */
  readonly observer?: ReconcileObserver | undefined
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  /** The causes that keep the timeline from its requested state, as the API shows them. */
  readonly problems: TimelineProblems
  readonly membership: MembershipReconciler
  readonly followers: ShardFollowers
  /** Stores a change of the timeline's document. */
  readonly update: (change: (timeline: TimelineDocument) => TimelineDocument) => Promise<TimelineDocument>
}

export const SETTLED: StepOutcome = { kind: 'settled' }
