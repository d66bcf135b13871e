/** Stock Postgres recovering the WAL of a crash, as its own log reports it. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fail } from '@understory/base'
import { runCommand, startPostgres } from '@understory/testcontainers'
import type { WalSource } from './wal-source.ts'

export interface StockRecovery {
  /** Of the startup process, user and system, from the first record redone to the last. */
  readonly cpuSeconds: number
  readonly userSeconds: number
  readonly elapsedSeconds: number
}

const REDO_DONE =
  /redo done at .* system usage: CPU: user: ([\d.]+) s, system: ([\d.]+) s, elapsed: ([\d.]+) s/

export async function recoverByStock(source: WalSource, folder: string): Promise<StockRecovery> {
  const dataDirectory = join(folder, 'recovered')
  await runCommand({ name: 'cp', command: 'cp', args: ['-a', source.directory, dataDirectory] })
  try {
    await using server = await startPostgres({
      major: source.major,
      dataDirectory,
      // The pages stay in memory, and the log speaks English.
      settings: { shared_buffers: '2GB', lc_messages: 'C', max_wal_size: '100GB', checkpoint_timeout: '1d' },
      startTimeoutMs: 600_000,
    })
    const found = REDO_DONE.exec(server.log())
    if (found === null) throw fail('precondition', 'Postgres recovered nothing', { detail: server.log() })
    const [user, system, elapsed] = found.slice(1).map(Number) as [number, number, number]
    await server.stop('immediate')
    return { cpuSeconds: user + system, userSeconds: user, elapsedSeconds: elapsed }
  } finally {
    await rm(dataDirectory, { recursive: true, force: true })
  }
}
