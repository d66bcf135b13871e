/**
 * A network of its own for a cluster: a bridge and one network namespace a node, whose packets can be dropped, all of
 * them, one way, or some. It is made inside the network and mount namespaces of this process, which must be private
 * (`unshare --net --mount`): all of it goes when the last process in them does, however that ends.
 */
import { spawnSync } from 'node:child_process'
import { assert, fail } from '@understory/base'
import { runCommand } from './process.ts'
import { findProgram } from './program.ts'

const BRIDGE = 'understory0'
const SUBNET = '10.77.0'
const PROGRAMS = ['unshare', 'setpriv', 'nsenter', 'ip', 'nft', 'mount'] as const

/** The packets of a node that are dropped. `in` and `out` as the node sees them. */
export type Cut = 'both' | 'in' | 'out' | { readonly lossPercent: number }

/** The command in front of one that is to have private namespaces. */
export const PRIVATELY = ['unshare', '--net', '--mount', '--propagation', 'private', '--'] as const

/** The reason why a private network is not possible here, or undefined where it is. */
export async function privateNetworkMissing(): Promise<string | undefined> {
  for (const program of PROGRAMS) {
    if ((await findProgram(program)) === undefined) return `the program "${program}" is not in PATH`
  }
  const [command, ...args] = [...PRIVATELY, 'sh', '-c', 'ip link add t0 type bridge && nft add table inet t']
  const { status, stderr } = spawnSync(command, args, { encoding: 'utf8' })
  return status === 0 ? undefined : `no right to make network namespaces (${stderr.trim().split('\n')[0]})`
}

export class PrivateNetwork {
  /** Where this process is in it. */
  readonly host = `${SUBNET}.1`
  #nodesCount = 0

  /** Errors: `precondition` where this process shares its network with others. */
  static async make(): Promise<PrivateNetwork> {
    // A network namespace that was just made has a loopback device, and that is down.
    const links = await runCommand({ name: 'ip link', command: 'ip', args: ['-o', 'link'] })
    if (!/^1: lo:[^\n]*state DOWN[^\n]*\n$/.test(links))
      throw fail('precondition', 'this process is not in a new network namespace of its own')
    await run('mkdir', '-p', '/run/netns')
    await run('mount', '-t', 'tmpfs', 'none', '/run/netns')
    await run('ip', 'link', 'set', 'lo', 'up')
    await run('ip', 'link', 'add', BRIDGE, 'type', 'bridge')
    await run('ip', 'addr', 'add', `${SUBNET}.1/24`, 'dev', BRIDGE)
    await run('ip', 'link', 'set', BRIDGE, 'up')
    return new PrivateNetwork()
  }

  /** A namespace for the node: its address, and the command that runs a program there. */
  async addNode(name: string): Promise<{ readonly host: string; readonly under: readonly string[] }> {
    const number = ++this.#nodesCount + 1
    assert(number < 255, () => 'the subnet is full')
    const [inside, outside, host] = [`n${number}i`, `n${number}o`, `${SUBNET}.${number}`]
    await run('ip', 'netns', 'add', name)
    await run('ip', 'link', 'add', outside, 'type', 'veth', 'peer', 'name', inside, 'netns', name)
    await run('ip', 'link', 'set', outside, 'master', BRIDGE, 'up')
    await run('ip', '-n', name, 'addr', 'add', `${host}/24`, 'dev', inside)
    await run('ip', '-n', name, 'link', 'set', inside, 'up')
    await run('ip', '-n', name, 'link', 'set', 'lo', 'up')
    const under = ['nsenter', `--net=/run/netns/${name}`, '--']
    // Packets of a program to itself pass.
    const own = `iifname "lo" accept; oifname "lo" accept;`
    await run(
      ...under,
      'nft',
      `table inet faults { chain arriving { type filter hook input priority 0; ${own} }; chain leaving { type filter hook output priority 0; ${own} }; }`,
    )
    return { host, under }
  }

  /** Drops packets of the node from now on, until it is healed. */
  async cut(name: string, cut: Cut): Promise<void> {
    await this.heal(name)
    const rule = typeof cut === 'object' ? `numgen random mod 100 < ${cut.lossPercent} drop` : 'drop'
    const dropped = [...(cut === 'out' ? [] : ['arriving']), ...(cut === 'in' ? [] : ['leaving'])]
    const rules = dropped.map((chain) => `add rule inet faults ${chain} meta l4proto tcp ${rule}`)
    await run('nsenter', `--net=/run/netns/${name}`, '--', 'nft', rules.join('; '))
  }

  async heal(name: string): Promise<void> {
    const accept = `add rule inet faults arriving iifname "lo" accept; add rule inet faults leaving oifname "lo" accept`
    const commands = `flush chain inet faults arriving; flush chain inet faults leaving; ${accept}`
    await run('nsenter', `--net=/run/netns/${name}`, '--', 'nft', commands)
  }
}

async function run(command: string, ...args: string[]): Promise<void>
async function run(...words: readonly string[]): Promise<void>
async function run(...words: readonly string[]): Promise<void> {
  const [command = '', ...args] = words
  await runCommand({ name: `"${words.join(' ')}"`, command, args, timeoutMs: 20_000 })
}
