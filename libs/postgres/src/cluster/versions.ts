/** The row of each supported version. */
import type { PgMajor } from '../wal/pages.ts'
import { version16 } from './v16.ts'
import { version17 } from './v17.ts'
import { version18 } from './v18.ts'
import type { ClusterVersion } from './version.ts'

export const clusterVersions: Readonly<Record<PgMajor, ClusterVersion>> = {
  16: version16,
  17: version17,
  18: version18,
}

export const clusterVersionOfControl = (controlVersion: number): ClusterVersion | undefined =>
  Object.values(clusterVersions).find((version) => version.controlVersion === controlVersion)
