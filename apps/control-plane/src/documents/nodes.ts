/**
 * Which nodes are announced, and where. Soft state: a node that stops announcing itself disappears from here, and is
 * back at its next announcement. `known` survives the loss of the broker: reconcilers, deletions and metrics work with
 * it, because an old address costs a retry and a missing one costs the database. `list` asks the broker: what must not
 * be decided on old news (placement, replacement) uses it.
 */
import { describeError, isAddress, parseNodeId, fail } from '@understory/base'
import type { Broker } from '@understory/broker'
import type { Log } from '@understory/env'
import { z } from 'zod'

const NODE_PREFIX = 'node/'
export const NODE_KINDS = ['safekeeper', 'pageserver', 'compute-host', 'control-plane'] as const
export type NodeKind = (typeof NODE_KINDS)[number]

const announced = z.object({
  kind: z.enum(NODE_KINDS),
  address: z.string().refine(isAddress, 'no host:port'),
})
/** Keys that were ignored and reported; beyond so many the rest is not reported. */
const REPORTED_COUNT_MAX = 1_000

export interface NodeView {
  readonly nodeId: string
  readonly kind: NodeKind
  /** host:port */
  readonly address: string
}

export class Nodes {
  readonly #broker: Broker
  readonly #log: Log
  readonly #known = new Map<string, NodeView>()
  readonly #reported = new Set<string>()

  constructor(broker: Broker, log: Log) {
    this.#broker = broker
    this.#log = log
  }

  /** Keeps `known` up to date until the signal fires. While the broker is away nothing in it changes. */
  async follow(signal: AbortSignal): Promise<void> {
    for await (const change of this.#broker.watch(NODE_PREFIX, signal)) {
      const node = change.kind === 'announced' ? this.#read(change.key, change.value) : undefined
      if (node === undefined) this.#known.delete(change.key)
      else this.#known.set(change.key, node)
    }
  }

  /** True while the broker does not answer. */
  get isBrokerAway(): boolean {
    return this.#broker.isAway
  }

  /** The announced nodes by id, as announced last. Needs `follow`. */
  known(): NodeView[] {
    return [...this.#known.values()].toSorted((a, b) => a.nodeId.localeCompare(b.nodeId))
  }

  /** The announced nodes by id. Errors: `unavailable` while the broker is away. */
  async list(): Promise<NodeView[]> {
    const entries = await this.#broker.list(NODE_PREFIX)
    return entries
      .map(({ key, value }) => this.#read(key, value))
      .filter((node) => node !== undefined)
      .toSorted((a, b) => a.nodeId.localeCompare(b.nodeId))
  }

  /** Undefined for an announcement that is ignored, which is reported once. */
  #read(key: string, value: unknown): NodeView | undefined {
    try {
      return readNode(key, value)
    } catch (error) {
      if (!this.#reported.has(key) && this.#reported.size < REPORTED_COUNT_MAX) {
        this.#reported.add(key)
        this.#log.warn('announcement_ignored', { key, problem: describeError(error) })
      }
      return undefined
    }
  }

  /** Errors: `unavailable` while the node is not announced. */
  async address(nodeId: string): Promise<string> {
    const found = (await this.list()).find((node) => node.nodeId === nodeId)
    if (found !== undefined) return found.address
    throw fail('unavailable', `node "${nodeId}" is not announced`, {
      hint: 'Start it, and see `understory nodes`.',
    })
  }
}

/**
 * Errors for what a newer or foreign program announced. Every program that reaches the broker may announce: the id
 * becomes a key of documents, and the address is called with the token.
 */
function readNode(key: string, value: unknown): NodeView {
  const nodeId = parseNodeId(key.slice(NODE_PREFIX.length))
  // As a key of a document it would find what every object has.
  if (nodeId in Object.prototype) throw fail('bad_argument', `"${nodeId}" cannot be the name of a node`)
  return { nodeId, ...announced.parse(value) }
}
