/**
 * Things that are made once on a machine and kept between runs: binaries, downloaded jars, fresh data directories.
 * An entry appears under its final name only when it is whole, so it may be used once it is found. Entries are never
 * changed afterwards: everything that could change them (version, architecture, options) is part of their name.
 */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, mkdir, rename, rm } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { fail } from '@understory/base'

/** Where this user's cache is. Root's is one that unprivileged servers can reach too. */
export function cacheRoot(): string {
  if (process.getuid?.() === 0) return '/var/cache/understory'
  const base = process.env['XDG_CACHE_HOME']
  return join(base === undefined || base === '' ? join(homedir(), '.cache') : base, 'understory')
}

/**
 * The path of the entry `name`, which `make` fills the first time. Several processes may make it at the same time:
 * the first to finish wins and the others throw theirs away.
 */
export async function cached(name: string, make: (path: string) => Promise<void>): Promise<string> {
  const path = join(cacheRoot(), name)
  if (existsSync(path)) return path
  await makeReachable(dirname(path))
  const draft = `${path}.draft-${process.pid}-${randomBytes(4).toString('hex')}`
  try {
    await make(draft)
    await rename(draft, path)
  } catch (error) {
    await rm(draft, { recursive: true, force: true })
    if (!existsSync(path)) throw error
  }
  return path
}

/** Makes the folder and lets all users pass through the folders made for it, against the umask. */
export async function makeReachable(path: string): Promise<void> {
  try {
    let made = await mkdir(path, { recursive: true })
    for (let at = path; made !== undefined; at = dirname(at)) {
      await chmod(at, 0o755)
      if (at === made) made = undefined
    }
  } catch (error) {
    throw fail('precondition', `could not create the cache folder "${path}"`, {
      hint: 'Make it writable for this user, or set XDG_CACHE_HOME to a folder that is.',
      cause: error,
    })
  }
}
