/**
 * The release before had a compute's own state beside PGDATA, and has it there again after a way back. State that is
 * newer there than in the folder of its own is taken over, so that an upgrade keeps the port of Postgres and the user's
 * configuration.
 */
import { lstat, mkdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { diskError } from '@understory/env'
import { isNewer, readKeptIfWhole } from '../postgres/configuration-store.ts'
import type { ComputeFiles } from '../postgres/layout.ts'
import { readState } from '../compute/state-file.ts'

/** Of a compute on a host, before anything of its state is read. */
export async function takeOverState(files: ComputeFiles): Promise<void> {
  const beside = {
    ...files,
    configuration: join(files.shared, basename(files.configuration)),
    state: join(files.shared, basename(files.state)),
  }
  if (await isOwnFile(beside.configuration)) {
    const kept = await readKeptIfWhole(beside)
    const wins = kept !== undefined && isNewer(kept, await readKeptIfWhole(files))
    await take(beside.configuration, wins ? files.configuration : undefined)
  }
  if (await isOwnFile(beside.state)) {
    const { term } = await readState(beside.state)
    await take(beside.state, term > (await readState(files.state)).term ? files.state : undefined)
  }
}

/** A link, or a file of another user, was not written by this program. */
async function isOwnFile(path: string): Promise<boolean> {
  const stats = await lstat(path).catch(() => undefined)
  return stats?.isFile() === true && stats.uid === process.geteuid?.()
}

/** Moved, or removed where what is there already is newer. */
async function take(from: string, to: string | undefined): Promise<void> {
  try {
    if (to === undefined) return await rm(from)
    await mkdir(dirname(to), { recursive: true, mode: 0o700 })
    await rename(from, to)
  } catch (error) {
    throw diskError(error, `move file "${from}"`)
  }
}
