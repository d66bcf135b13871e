/**
 * The log of who changed what, and who was refused. Every call of an RPC that changes something is one line `audit`, by
 * whom and from where, when it ends. A call that is refused at the door is a line `call_refused` and counts in
 * `understory_rpc_refused_total`; its line, and that of a change that is asked for again and again until it holds, is
 * written once a minute with the number of equal ones in that minute.
 */
import type { Clock, Log } from '@understory/env'
import type { Refusal } from './observer.ts'

/** The kind of an RPC. `repeats`: a change that its caller asks for again and again. */
export type Effect = 'reads' | 'changes' | 'repeats'

/** By `Service/Method`: all of them, so that a new one is decided on. */
export const EFFECTS: Readonly<Record<string, Effect>> = {
  'BrokerService/Announce': 'repeats',
  'BrokerService/Withdraw': 'changes',
  'BrokerService/ListAnnouncements': 'reads',
  'BrokerService/WatchAnnouncements': 'reads',
  'ComputeHostService/EnsureCompute': 'repeats',
  'ComputeHostService/RemoveCompute': 'repeats',
  'ComputeHostService/ListComputes': 'reads',
  'ComputeService/GetComputeStatus': 'reads',
  'ComputeService/SetFullPageWrites': 'repeats',
  'ComputeService/SetPassword': 'repeats',
  'ComputeService/GetConfiguration': 'reads',
  'ComputeService/RunCheckpoint': 'changes',
  'ComputeService/VerifyTimeline': 'reads',
  'ComputeService/StopCompute': 'changes',
  'ControlPlaneService/CreateTenant': 'changes',
  'ControlPlaneService/ListTenants': 'reads',
  'ControlPlaneService/GetTenant': 'reads',
  'ControlPlaneService/SetTenantPassword': 'changes',
  'ControlPlaneService/ListTimelines': 'reads',
  'ControlPlaneService/GetTimeline': 'reads',
  'ControlPlaneService/SwitchFullPageWrites': 'changes',
  'ControlPlaneService/GetFullPageWrites': 'reads',
  'ControlPlaneService/WatchFullPageWrites': 'reads',
  'ControlPlaneService/VerifyTenantTimeline': 'reads',
  'ControlPlaneService/ChangeSafekeepers': 'changes',
  'ControlPlaneService/CancelSafekeeperChange': 'changes',
  'ControlPlaneService/RecoverSafekeepers': 'changes',
  'ControlPlaneService/GetSafekeepers': 'reads',
  'ControlPlaneService/DeleteTimeline': 'changes',
  'ControlPlaneService/DeleteTenant': 'changes',
  'ControlPlaneService/ListRemovals': 'reads',
  'ControlPlaneService/ListNodes': 'reads',
  'PageserverService/AttachShard': 'repeats',
  'PageserverService/DetachShard': 'repeats',
  'PageserverService/ImportShard': 'changes',
  'PageserverService/GetPages': 'reads',
  'PageserverService/GetControlState': 'reads',
  'PageserverService/StreamFiles': 'reads',
  'PageserverService/SetImageGeneration': 'repeats',
  'PageserverService/GetShardStatus': 'reads',
  'PageserverService/FlushShard': 'changes',
  'SafekeeperService/CreateTimeline': 'repeats',
  'SafekeeperService/Propose': 'repeats',
  'SafekeeperService/FollowWal': 'reads',
  'SafekeeperService/SubscribeWal': 'reads',
  'SafekeeperService/ReadWal': 'reads',
  'SafekeeperService/GetWalStatus': 'reads',
  'SafekeeperService/GetCommitPositions': 'reads',
  'SafekeeperService/ConfigureMembership': 'repeats',
  'SafekeeperService/PullTimeline': 'repeats',
  'SafekeeperService/CloseStoredWal': 'repeats',
  'SafekeeperService/DeleteTimeline': 'repeats',
  'SafekeeperService/ListWalTimelines': 'reads',
}

const methodOf = (path: string): string => path.replace(/^\/understory\.v1\./, '')

/** `path` is `/package.Service/Method`. */
export const effectOf = (path: string): Effect => EFFECTS[methodOf(path)] ?? 'reads'

export interface Caller {
  readonly path: string
  /** host:port */
  readonly peer: string
  /** Which token it showed, such as `token 1`; `none` where none is demanded. */
  readonly principal: string
}

const REPEAT_MS = 60_000
const REMEMBERED_MAX = 1_000
const TEXT_LENGTH_MAX = 100

/** Of lines that are the same but for their time: one a minute. */
class Repeats {
  readonly #seen = new Map<string, { sinceMs: number; count: number }>()

  /** How many were left out since the last one that was written; undefined where this one is left out, too. */
  take(key: string, nowMs: number): number | undefined {
    const known = this.#seen.get(key)
    if (known !== undefined && nowMs - known.sinceMs < REPEAT_MS) {
      known.count++
      return undefined
    }
    this.#seen.delete(key)
    if (this.#seen.size >= REMEMBERED_MAX) this.#seen.delete(this.#seen.keys().next().value as string)
    this.#seen.set(key, { sinceMs: nowMs, count: 0 })
    return known?.count ?? 0
  }
}

const hostOf = (peer: string): string => peer.replace(/:\d+$/, '')

export class CallLog {
  readonly #clock: Clock
  readonly #log: Log
  readonly #repeats = new Repeats()

  constructor({ clock, log }: { readonly clock: Clock; readonly log: Log }) {
    this.#clock = clock
    this.#log = log
  }

  /** `request` is the call's first message, `outcome` the status as gRPC names it. */
  change({ path, peer, principal }: Caller, request: unknown, outcome: string): void {
    const fields = { method: methodOf(path), principal, ...subjectOf(request), outcome }
    const isRepeated = effectOf(path) === 'repeats'
    const leftOut = isRepeated ? this.#leftOut('audit', JSON.stringify([fields, hostOf(peer)])) : {}
    if (leftOut !== undefined) this.#log.info('audit', { ...fields, peer, ...leftOut })
  }

  refusal(reason: Refusal, path: string, peer: string): void {
    const leftOut = this.#leftOut('call_refused', `${reason} ${hostOf(peer)}`)
    if (leftOut !== undefined)
      this.#log.warn('call_refused', { reason, method: methodOf(path), peer, ...leftOut })
  }

  /** Undefined where the line is left out. */
  #leftOut(event: string, key: string): { readonly leftOut?: number } | undefined {
    const count = this.#repeats.take(`${event} ${key}`, this.#clock.nowMs())
    if (count === undefined) return undefined
    return count === 0 ? {} : { leftOut: count }
  }
}

/** The tenant and timeline that a request is about, as it names them. */
function subjectOf(request: unknown): { readonly tenant?: string; readonly timeline?: string } {
  const fields = fieldsOf(request)
  const inner = fieldsOf(fieldsOf(fields['message'])['value'])
  const holder =
    [fields, fieldsOf(fields['spec']), inner].find(({ timeline }) => timeline !== undefined) ?? fields
  const ref = fieldsOf(holder['timeline'])
  const tenant = textOf(ref['tenantId']) ?? textOf(fields['tenant']) ?? textOf(fields['name'])
  const timeline = textOf(ref['timelineId']) ?? textOf(fields['timeline'])
  return { ...(tenant === undefined ? {} : { tenant }), ...(timeline === undefined ? {} : { timeline }) }
}

const fieldsOf = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}

const textOf = (value: unknown): string | undefined =>
  typeof value === 'string' && value !== '' ? value.slice(0, TEXT_LENGTH_MAX) : undefined
