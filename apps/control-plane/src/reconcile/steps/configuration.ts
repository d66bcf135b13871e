/** Publishes a user's changes of the compute's configuration files, which are in no WAL. */
import { isNewer } from '../../documents/configuration-store.ts'
import { ifReachable } from '../../clients/node-clients.ts'
import { SETTLED } from './step.ts'
import type { Step, StepParts } from './step.ts'

export const configuration =
  ({ clients, configuration: stored, log }: StepParts): Step =>
  async ({ observe }) => {
    const { compute, computeAddress } = await observe()
    if (compute === undefined || computeAddress === undefined) return SETTLED
    if (!isNewer(compute.configurationVersion, (await stored.read())?.version)) return SETTLED
    const found = await ifReachable(clients.configuration(computeAddress))
    if (found === undefined) return SETTLED
    const { version } = await stored.publish(found)
    log.info('configuration_published', {
      term: version?.term.toString(),
      number: version?.number.toString(),
    })
    return SETTLED
  }
