/**
 * One process at a time may write to a folder. Held as an abstract Unix socket named after the folder's device and
 * inode: the kernel gives it to one, and takes it back when that one dies, however it dies. Processes in different
 * network namespaces (containers that share a volume) do not see each other's.
 */
import { stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { refuse } from '@understory/base'

export interface FolderLock extends AsyncDisposable {
  release(): Promise<void>
}

/** Error: refused `precondition` where another process holds the folder. */
export async function lockFolder(path: string): Promise<FolderLock> {
  const { dev, ino } = await stat(path)
  // Whoever connects is not wanted: the name is all that matters.
  const server = createServer((socket) => socket.destroy())
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      if (cause.code !== 'EADDRINUSE') return reject(cause)
      return reject(
        refuse('precondition', `data folder "${path}" is in use`, {
          hint: 'Stop the process that uses it, or name another folder.',
          cause,
        }),
      )
    })
    server.listen({ path: `\0understory-folder-${dev}-${ino}`, exclusive: true }, resolve)
  })
  // A held lock alone keeps no process alive.
  server.unref()
  const release = (): Promise<void> => new Promise((resolve) => server.close(() => resolve()))
  return { release, [Symbol.asyncDispose]: release }
}
