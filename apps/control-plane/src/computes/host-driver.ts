/** Computes on compute hosts: processes that `compute-proxy host` keeps running. */
import { fail } from '@understory/base'
import { sendSpec } from './compute-driver.ts'
import type { ComputeDriver, ComputePlace } from './compute-driver.ts'
import type { NodeClients } from '../clients/node-clients.ts'

const addressOf = ({ hostAddress }: ComputePlace): string => {
  if (hostAddress !== undefined) return hostAddress
  throw fail('unavailable', 'the compute host is not announced', { hint: 'Start it.' })
}

export const hostDriver = (clients: NodeClients): ComputeDriver => ({
  usesHosts: true,
  find: ({ hostAddress, timeline }) =>
    hostAddress === undefined ? Promise.resolve(undefined) : clients.hostedCompute(hostAddress, timeline),
  async ensure(place, spec, configuration) {
    await sendSpec(clients, addressOf(place), place.timeline, spec, configuration)
    return ''
  },
  remove: (place) => clients.removeCompute(addressOf(place), place.timeline),
})
