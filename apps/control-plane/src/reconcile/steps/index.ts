/** The steps of a pass, in this order: each step may rely on those before it. A new step is a file and a line here. */
import { addresses } from './addresses.ts'
import { bootstrap } from './bootstrap.ts'
import { compute } from './compute.ts'
import { configuration } from './configuration.ts'
import { followers } from './followers.ts'
import { fpw } from './fpw.ts'
import { membership } from './membership.ts'
import { password } from './password.ts'
import { place } from './place.ts'
import { removal } from './removal.ts'
import { restart } from './restart.ts'
import { shards } from './shards.ts'
import type { Step, StepParts } from './step.ts'

const STEPS: readonly ((parts: StepParts) => Step)[] = [
  removal,
  place,
  addresses,
  shards,
  compute,
  restart,
  configuration,
  bootstrap,
  membership,
  followers,
  password,
  fpw,
]

export const timelineSteps = (parts: StepParts): readonly Step[] => STEPS.map((make) => make(parts))
