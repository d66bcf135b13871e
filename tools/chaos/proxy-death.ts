/**
 * The death of a compute-proxy alone: the next one adopts the Postgres that lives, the same process, without a rebuild.
 */
import { fail } from '@understory/base'
import { until } from './lab.ts'
import type { Lab } from './lab.ts'

const WAIT_MS = 60_000

const hostEvents = (lab: Lab, event: string): string[] =>
  lab.cluster.computeHost
    .log()
    .split('\n')
    .filter((line) => line.includes(`"event":"${event}"`))

/**
 * Whether the host has made a spare process since the last compute-proxy began: lines of the log begin with the time.
 */
function isSpareReady(lab: Lab): boolean {
  const [started = '', spare = ''] = ['started', 'spare_ready'].map((event) => hostEvents(lab, event).at(-1))
  return spare > started
}

export async function killProxyAlone(
  lab: Lab,
): Promise<{ readonly target: string; readonly heal: () => Promise<void> }> {
  // Without one it depends on the machine whether another proxy is there in time.
  await until('a spare process', WAIT_MS, async () => (isSpareReady(lab) ? true : undefined))
  const before = await lab.compute()
  process.kill(before.proxyPid, 'SIGKILL')
  return {
    target: 'compute-proxy',
    heal: async () => {
      const { postmasterPid } = await until('another compute-proxy', WAIT_MS, async () => {
        const now = await lab.compute()
        return now.proxyPid === before.proxyPid ? undefined : now
      })
      if (postmasterPid === before.postmasterPid) return
      const problem = hostEvents(lab, 'not_adopted').at(-1)
      throw fail('conflict', `Postgres was rebuilt, and not adopted: ${problem}`)
    },
  }
}
