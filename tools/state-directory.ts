/** Where a local cluster keeps its data by default. */
import { createHash } from 'node:crypto'
import { statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ROOT } from './run-command.ts'

/**
 * Beside the project where that works. Started by root, Postgres runs as another user, who must be able to traverse
 * every folder above its data: where the project lies below a private folder, the data goes to /var/lib/understory.
 */
export function stateDirectory(name: string): string {
  const beside = join(ROOT, '.understory', name)
  if (process.getuid?.() !== 0 || isTraversable(ROOT)) return beside
  return join('/var/lib/understory', createHash('sha256').update(ROOT).digest('hex').slice(0, 8), name)
}

function isTraversable(path: string): boolean {
  const forOthers = (statSync(path).mode & 0o001) !== 0
  return forOthers && (path === '/' || isTraversable(dirname(path)))
}
