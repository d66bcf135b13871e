/**
 * How the programs of Postgres are run beside this one: as child processes (child-launcher.ts), or in a neighbouring
 * container that shares its processes with this one (neighbour-launcher.ts). The life of a compute is the same.
 */
import type { UserIds } from '@understory/env'
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

/** By their names at the top of PGDATA. */
export type InstalledFiles = ReadonlyMap<string, string | Uint8Array>

export interface Launcher {
  /** By whom and how what this process writes into PGDATA has to be owned, so that Postgres's user can use it. */
  readonly access: {
    /** Whom it is given to; undefined: it stays this process's. */
    readonly owner: Pick<UserIds, 'uid' | 'gid'> | undefined
    /** Postgres has another user, and a group in common with this process. */
    readonly groupMayWrite: boolean
  }
  /** Makes a cluster in `files.pgdata`. Error: refused `precondition` with what it said. */
  initdb(files: ComputeFiles, args: readonly string[]): Promise<void>
  /**
   * Ends whatever of Postgres still runs on these files, from an earlier life of the proxy, and waits until it is gone: backends
   * can outlive a postmaster that was killed, and would serve what is no longer true.
   */
  endOld(files: ComputeFiles): Promise<void>
  /** Removes PGDATA, and makes it anew, empty. Nothing of Postgres may run. */
  emptyPgdata(files: ComputeFiles): Promise<void>
  /** Puts files into PGDATA, as Postgres's user. */
  install(files: ComputeFiles, contents: InstalledFiles): Promise<void>
  /**
   * Starts `postgres` on `files.pgdata`, which takes the start token away; it writes into `files.log`. With `input` it
   * reads that and ends. Error: refused `precondition` without a token, or where it cannot be run.
   */
  start(files: ComputeFiles, args: readonly string[], input?: string): Promise<Postmaster>
  /** Called every second or so: `files.log` does not grow for ever. */
  boundLog(files: ComputeFiles): Promise<void>
}
