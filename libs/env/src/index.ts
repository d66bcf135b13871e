export { cancelled, realClock, throwIfCancelled, withDeadline } from './clock.ts'
export type { Clock, Timer } from './clock.ts'
export { isTemporaryName, replaceDurably } from './disk.ts'
export type { Disk, DiskFile, FileStat, OpenMode } from './disk.ts'
export { realEnv } from './env.ts'
export { lockFolder } from './folder-lock.ts'
export type { FolderLock } from './folder-lock.ts'
export type { Env } from './env.ts'
export { LOG_LEVELS, jsonLog, silentLog } from './log.ts'
export type { Log, LogFields, LogLevel, LogRecord } from './log.ts'
export { diskError, pathInside, realDisk } from './real-disk.ts'
export { realWorkers } from './real-workers.ts'
export { replaceNow } from './replace-now.ts'
export { backoffMs, isRetryable, retry } from './retry.ts'
export type { BackoffOptions } from './retry.ts'
export { realRng, seededRng } from './rng.ts'
export type { Rng } from './rng.ts'
export { serveJobs } from './worker-thread.ts'
export { Transferred, inlineWorkers } from './workers.ts'
export type { JobHandlers, Workers } from './workers.ts'
export { helpText, hostPort, oneOf, parseOptions, text, wholeNumber } from './options.ts'
export type { OptionSpec, OptionValues } from './options.ts'
export {
  listWithin,
  makeFolderWithin,
  openFileWithin,
  openWithin,
  readWithin,
  replaceWithin,
  socketWithin,
} from './untrusted-folder.ts'
export { ProgressLine } from './progress-line.ts'
export { checkReachable, parsePasswd, unprivilegedUser } from './user.ts'
export type { UserIds } from './user.ts'
