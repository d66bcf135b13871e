/** Folders that go away again. */
import { rmSync } from 'node:fs'
import { chmod, chown, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { UserIds } from './user.ts'

export interface TemporaryDirectory extends AsyncDisposable {
  readonly path: string
}

export interface TemporaryDirectoryOptions {
  /** First part of its name. Short, because a socket's whole path must stay below 108 bytes. */
  readonly prefix?: string
  /** Who owns it, where that is not this process's user. */
  readonly owner?: UserIds | undefined
}

const alive = new Set<string>()

/** A new empty folder that every user may pass through; removed with all it holds on disposal, or at process exit. */
export async function temporaryDirectory(options: TemporaryDirectoryOptions = {}): Promise<TemporaryDirectory> {
  const path = await mkdtemp(join(tmpdir(), `${options.prefix ?? 'understory'}-`))
  if (alive.size === 0) process.once('exit', removeAll)
  alive.add(path)
  await chmod(path, 0o755)
  if (options.owner !== undefined) await chown(path, options.owner.uid, options.owner.gid)
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      await rm(path, { recursive: true, force: true, maxRetries: 3 })
      alive.delete(path)
      if (alive.size === 0) process.removeListener('exit', removeAll)
    },
  }
}

function removeAll(): void {
  for (const path of alive) rmSync(path, { recursive: true, force: true })
}
