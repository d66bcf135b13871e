/**
 * One process at a time may write to a folder. Held as flock(2) on a file in it that only its owner can open: the
 * kernel gives it to one, and takes it back when that one dies, however it dies; also where several containers share a
 * volume. A user who may not write to the folder cannot be in the way, as with a name that any process may take.
 *
 * Node has no flock(2), but the program of util-linux locks a file that it inherits, and a lock belongs to the open
 * file, which this process still has when the program has ended.
 */
import { spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { fail } from '@understory/base'
import { diskError } from './real-disk.ts'

const FILE = '.lock'
/** Exit code of flock(1) where another process has it. */
const HELD = 1

export interface FolderLock extends AsyncDisposable {
  release(): Promise<void>
}

/** Errors: `precondition` where another process holds the folder, or where the program `flock` is missing. */
export async function lockFolder(path: string): Promise<FolderLock> {
  const { O_CREAT, O_NOFOLLOW, O_RDWR } = constants
  const file = await open(join(path, FILE), O_RDWR | O_CREAT | O_NOFOLLOW, 0o600).catch((error: unknown) => {
    throw diskError(error, `lock data folder "${path}"`)
  })
  const code = await new Promise<number | null | Error>((resolve) => {
    const program = spawn('flock', ['-x', '-n', '3'], {
      stdio: ['ignore', 'ignore', 'ignore', file.fd],
    })
    program.once('error', resolve)
    program.once('exit', resolve)
  })
  if (code !== 0) {
    await file.close()
    if (code === HELD) {
      throw fail('precondition', `data folder "${path}" is in use`, {
        hint: 'Stop the process that uses it, or name another folder.',
      })
    }
    throw fail('precondition', `could not lock data folder "${path}"`, {
      detail: code instanceof Error ? code.message : `flock ended with exit code ${code}`,
      hint: 'Install util-linux.',
      cause: code,
    })
  }
  const release = (): Promise<void> => file.close()
  return { release, [Symbol.asyncDispose]: release }
}
