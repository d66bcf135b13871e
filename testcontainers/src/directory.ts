/**
 * Folders that go away again: on disposal, at process exit, and, when their process was killed, the next time one is
 * made on this machine. For that the process's id is in their names.
 */
import { rmSync } from 'node:fs'
import { chmod, chown, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isAlive } from './process.ts'
import type { UserIds } from '@understory/env'

export interface TemporaryDirectory extends AsyncDisposable {
  readonly path: string
}

export interface TemporaryDirectoryOptions {
  /** Part of its name. Short, because a socket's whole path must stay below 108 bytes. */
  readonly prefix?: string
  /** The owner, where that is not this process's user. */
  readonly owner?: UserIds | undefined
}

const NAME = /^understory-(\d+)-/

const alive = new Set<string>()
let sweeping: Promise<void> | undefined

/** Removes what killed processes left, as far as this user may. */
async function sweep(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const pid = NAME.exec(name)?.[1]
    if (pid === undefined || (await isAlive(Number(pid)))) continue
    await rm(join(tmpdir(), name), { recursive: true, force: true }).catch(() => undefined)
  }
}

/** A new empty folder that every user may pass through; removed with all it holds on disposal, or at process exit. */
export async function temporaryDirectory(
  options: TemporaryDirectoryOptions = {},
): Promise<TemporaryDirectory> {
  sweeping ??= sweep()
  await sweeping
  const path = await mkdtemp(join(tmpdir(), `understory-${process.pid}-${options.prefix ?? 'tmp'}-`))
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
