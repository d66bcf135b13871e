/** What several tests of the control plane begin with. */
import type { Leadership } from '../src/documents/leader-lease.ts'

export const leadUnder = (epoch: number): Leadership => ({ epoch, requireHeld: () => undefined })
