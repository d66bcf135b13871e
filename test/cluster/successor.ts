/** A second compute host, which takes a timeline that another one has; and whether a process of a compute is gone. */
import { mkdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import {
  PLAIN_CLIENT,
  ComputeHostServiceClient,
  ComputeServiceClient,
  ComputeState,
  callUnary,
  createClient,
} from '@understory/rpc'
import type { GetComputeStatusResponse } from '@understory/rpc'
import { freePort, postgresBinaries, startProcess } from '@understory/testcontainers'
import { until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const MAIN = resolve(import.meta.dirname, '../../apps/compute-proxy/src/main.ts')

export const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
export const gone = (what: string, pid: number): Promise<true> =>
  until(`${what} to be gone`, () => (isAlive(pid) ? undefined : true))

export interface Successor extends AsyncDisposable {
  /**
   * From now on it is to have the timeline. Until its end the control plane is frozen: it knows nothing of this host,
   * and would rightly start the timeline's compute on its own host again.
   */
  take(): Promise<unknown>
  /** Once it runs. */
  status(): Promise<GetComputeStatusResponse>
}

/** Another host, which takes the tenant's timeline on request. */
export async function prepareSuccessor(road: Road, tenant: string): Promise<Successor> {
  const directory = join(road.folder, `successor-of-${tenant}`)
  await mkdir(directory, { recursive: true })
  const { bin } = await postgresBinaries(17)
  const address = `127.0.0.1:${await freePort()}`
  const host = await startProcess({
    name: 'successor',
    command: process.execPath,
    args: [
      '--disable-warning=ExperimentalWarning',
      MAIN,
      'host',
      '--node-id',
      'successor',
      '--listen',
      address,
      '--data-dir',
      directory,
      '--postgres-bin-17',
      bin,
    ],
    ready: /"event":"started"/,
    parentDeathSignal: 'SIGTERM',
    stopTimeoutMs: 60_000,
  })
  const { spec } = await road.timeline(tenant)
  const client = createClient(PLAIN_CLIENT, ComputeHostServiceClient, address)
  const configuration = { version: { term: 0n, number: 1n }, files: {}, soundFiles: {} }
  const controlPlane = road.cluster.controlPlane.pid
  const take = () => {
    process.kill(controlPlane, 'SIGSTOP')
    return callUnary(client.ensureCompute.bind(client), { spec, configuration })
  }
  const status = (): Promise<GetComputeStatusResponse> =>
    until('the successor to run', async () => {
      const { computes } = await callUnary(client.listComputes.bind(client), {})
      const computeAddress = computes[0]?.address ?? ''
      if (computeAddress === '') return undefined
      const compute = createClient(PLAIN_CLIENT, ComputeServiceClient, computeAddress)
      try {
        const found = await callUnary(compute.getComputeStatus.bind(compute), {})
        return found.state === ComputeState.COMPUTE_STATE_RUNNING ? found : undefined
      } finally {
        compute.close()
      }
    })
  return {
    take,
    status,
    async [Symbol.asyncDispose](): Promise<void> {
      client.close()
      await host.stop()
      process.kill(controlPlane, 'SIGCONT')
    },
  }
}
