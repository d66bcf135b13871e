/** Which safekeepers the shards of a timeline follow, as they were sent it last. */
import { present } from '@understory/base'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'
import { ifReachable } from '../clients/node-clients.ts'
import type { NodeClients } from '../clients/node-clients.ts'
import { safekeeperAddresses } from './compute-spec.ts'
import { attachRequestOf } from './shard-requests.ts'

export class ShardFollowers {
  readonly #clients: NodeClients
  /** The position that all of them have confirmed. */
  #announced = ''

  constructor(clients: NodeClients) {
    this.#clients = clients
  }

  /** Sends it to every shard under the generation that it has, until all have confirmed it. */
  async announce(tenant: TenantDocument, timeline: TimelineDocument): Promise<void> {
    const announced = JSON.stringify([safekeeperAddresses(timeline), timeline.shards])
    if (timeline.membershipGeneration === 0 || announced === this.#announced) return
    const confirmed = await Promise.all(
      timeline.shards.map(async ({ node }, number) => {
        const address = present(timeline.addresses[node], `address of ${node}`)
        const attached = this.#clients.attachShard(address, attachRequestOf(tenant, timeline, number, false))
        return (await ifReachable(attached.then(() => true))) ?? false
      }),
    )
    if (confirmed.every(Boolean)) this.#announced = announced
  }
}
