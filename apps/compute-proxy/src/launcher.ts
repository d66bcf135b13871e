/**
 * How the programs of Postgres are run beside this one: as child processes (child-launcher.ts), or in a neighbouring
 * container that shares its processes with this one (neighbour-launcher.ts). The life of a compute is the same.
 */
import type { ComputeFiles } from './layout.ts'

/** A running postmaster, or a server in single-user mode. */
export interface Postmaster {
  readonly pid: number
  /** Resolves when it is gone, with a line that says how. */
  readonly exited: Promise<string>
  /** SIGINT: fast shutdown. SIGQUIT: immediate. */
  signal(name: 'SIGINT' | 'SIGQUIT' | 'SIGKILL'): void
}

/** How a clean stop looks in `Postmaster.exited`. */
export const CLEAN_EXIT = 'ended with exit code 0'

/** A longer log is cut, also while Postgres writes into it. */
export const LOG_BYTES_MAX = 32 * 1024 * 1024

export interface Launcher {
  /** Makes a cluster in `files.pgdata`. Error: refused `precondition` with what it said. */
  initdb(files: ComputeFiles, args: readonly string[]): Promise<void>
  /**
   * Starts `postgres` on `files.pgdata`, which takes the start token away; it writes into `files.log`. With `input` it
   * reads that and ends. Error: refused `precondition` without a token, or where it cannot be run.
   */
  start(files: ComputeFiles, args: readonly string[], input?: string): Promise<Postmaster>
  /** Called every second or so: `files.log` does not grow for ever. */
  boundLog(files: ComputeFiles): Promise<void>
}
