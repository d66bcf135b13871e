/**
 * One process at a time for work that takes minutes. The lock is SQLite's, that is the kernel's: it ends with its
 * holder, however that ends.
 */
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as delay } from 'node:timers/promises'
import { cacheRoot, makeReachable } from './cache.ts'

const SQLITE_BUSY = 5
const POLL_INTERVAL_MS = 200

export async function withCacheLock<T>(name: string, work: () => Promise<T>): Promise<T> {
  await makeReachable(cacheRoot())
  const database = new DatabaseSync(join(cacheRoot(), `${name}.lock`), { timeout: 0 })
  try {
    while (!tryLock(database)) await delay(POLL_INTERVAL_MS)
    return await work()
  } finally {
    database.close()
  }
}

function tryLock(database: DatabaseSync): boolean {
  try {
    database.exec('BEGIN EXCLUSIVE')
    return true
  } catch (error) {
    if ((error as { errcode?: number }).errcode !== SQLITE_BUSY) throw error
    return false
  }
}
