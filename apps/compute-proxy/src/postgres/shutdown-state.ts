/** Whether a Postgres that is gone has ended cleanly, as its own control file says. */
import { readWithin } from '@understory/env'
import {
  CONTROL_FILE_BYTES,
  CONTROL_FILE_PATH,
  DB_SHUTDOWNED,
  parseControlFile,
} from '@understory/postgres/cluster'
import type { ComputeFiles } from './layout.ts'

/** False where that cannot be known. */
export async function wasShutDown({ pgdata }: ComputeFiles): Promise<boolean> {
  try {
    const bytes = await readWithin(pgdata, CONTROL_FILE_PATH, { bytesMax: CONTROL_FILE_BYTES })
    return bytes !== undefined && parseControlFile(bytes).state === DB_SHUTDOWNED
  } catch {
    // It is the superuser's to spoil.
    return false
  }
}
