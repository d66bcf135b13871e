/** Nodes in memory by address: what runs against them needs no socket, and neither waits nor races. */
import type { NodeConnector } from '../connector.ts'
import { MemoryCompute, MemoryComputeHost } from './compute.ts'
import { MemoryPageserver } from './pageserver.ts'
import { MemorySafekeeper } from './safekeeper.ts'

/** An address is that of one node, which begins with its first mention; its name is the part before the colon. */
export class MemoryNodes implements NodeConnector {
  readonly #safekeepers = new Map<string, MemorySafekeeper>()
  readonly #pageservers = new Map<string, MemoryPageserver>()
  readonly #computes = new Map<string, MemoryCompute>()
  readonly #hosts = new Map<string, MemoryComputeHost>()

  safekeeper(address: string): MemorySafekeeper {
    return take(this.#safekeepers, address, (name) => new MemorySafekeeper(name, (at) => this.safekeeper(at)))
  }

  pageserver(address: string): MemoryPageserver {
    return take(this.#pageservers, address, (name) => new MemoryPageserver(name))
  }

  compute(address: string): MemoryCompute {
    return take(this.#computes, address, () => new MemoryCompute(address))
  }

  computeHost(address: string): MemoryComputeHost {
    return take(this.#hosts, address, (name) => new MemoryComputeHost(name, (id) => `${id}.${name}:1`))
  }
}

function take<N>(nodes: Map<string, N>, address: string, make: (name: string) => N): N {
  const node = nodes.get(address) ?? make(address.slice(0, address.lastIndexOf(':')))
  nodes.set(address, node)
  return node
}
