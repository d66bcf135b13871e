/**
 * Takes a base backup into a shard: gathered into layers, listed, loaded, and in the object store before it is
 * answered.
 */
import { formatLsn, fail } from '@understory/base'
import type { ShardWork } from './connect-parts.ts'
import { gatherImport } from './gather-import.ts'
import type { ImportOptions } from './gather-import.ts'

export type Backup = Omit<ImportOptions, 'owner' | 'layers'>

/**
 * Runs within the shard's mailbox; gives the number of values. `loading` runs what makes the shard readable. Errors:
 * refused `already_exists`; those of `gatherImport`; what the object store says.
 */
export async function importBackup(
  { env, state, layers, imageSettings }: ShardWork,
  backup: Backup,
  loading: (load: () => Promise<void>) => Promise<void>,
): Promise<number> {
  const { owner, startLsn: importedLsn } = layers.index
  if (importedLsn > 0) {
    throw fail(
      'already_exists',
      `shard ${owner.shard.number} has its data already, from ${formatLsn(importedLsn)} on`,
    )
  }
  const { startLsn } = backup
  const { files, control, endLsn, valuesCount } = await gatherImport({ ...backup, owner, layers })
  const { major, systemId, segmentBytes, checkpoint } = control
  const postgres = { major, systemId, pgTimelineId: checkpoint.timelineId, walSegmentBytes: segmentBytes }
  await loading(async () => {
    await layers.changeIndex({ startLsn, readableLsn: endLsn, postgres })
    await state.load(files, startLsn)
  })
  // Answered when the object store has it all: the backup it came from may be gone then.
  await layers.uploads.uploadWithRetries()
  imageSettings.sawFullPageWrites(checkpoint.fullPageWrites, state.ingestedLsn)
  const range = { startLsn: formatLsn(startLsn), endLsn: formatLsn(endLsn) }
  env.log.info('imported', { ...range, values: valuesCount })
  return valuesCount
}
