/** Computes on compute hosts: processes that `compute-proxy host` keeps running. */
import { present, refuse } from '@understory/base'
import { tellCompute } from './compute-driver.ts'
import type { ComputeDriver, ComputePlace } from './compute-driver.ts'
import type { NodeClients } from '../clients/clients.ts'

const addressOf = ({ hostAddress }: ComputePlace): string => {
  if (hostAddress !== undefined) return hostAddress
  throw refuse('unavailable', 'the compute host is not announced', { hint: 'Start it.' })
}

export const hostDriver = (peers: NodeClients): ComputeDriver => ({
  usesHosts: true,
  find: ({ hostAddress, timeline }) =>
    hostAddress === undefined ? Promise.resolve(undefined) : peers.hostedCompute(hostAddress, timeline),
  async ensure(place, spec, configuration) {
    await tellCompute(peers, present(place.hostAddress, 'address of the compute host'), spec, configuration)
    return ''
  },
  remove: (place) => peers.removeCompute(addressOf(place), place.timeline),
})
