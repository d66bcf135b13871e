/**
 * How the programs of Postgres are run beside this one: as child processes (child-launcher.ts), or in a sidecar
 * container that shares its processes with this one (sidecar-launcher.ts). The life of a compute is the same.
 */
import type { UserIds } from '@understory/env'
import type { ComputeFiles } from './layout.ts'

/** How a postmaster, or a server in single-user mode, ended. */
export type PostmasterEnd =
  /** With exit code 0: everything is shut down. */
  | { readonly kind: 'clean' }
  | { readonly kind: 'exited'; readonly code: number }
  | { readonly kind: 'signalled'; readonly signal: string }
  /** The program could not be run. */
  | { readonly kind: 'notRun'; readonly problem: string }
  /** Its exit code is not known. */
  | { readonly kind: 'gone'; readonly where: 'container' | 'earlier proxy' }

/** A running postmaster, or a server in single-user mode. */
export interface Postmaster {
  readonly pid: number
  /** Resolves when it is gone. */
  readonly exited: Promise<PostmasterEnd>
  /** Whether its process is there and runs, as the kernel says now: `exited` may resolve a little later. */
  isRunning(): boolean
  /** SIGINT: fast shutdown. SIGQUIT: immediate. */
  signal(name: 'SIGINT' | 'SIGQUIT' | 'SIGKILL'): void
}

/** A postmaster that an earlier life of this process started. */
export interface OldPostmaster extends Postmaster {
  /** From now on it lives as long as this process. False where no process looks after it: then it must be ended. */
  keep(): Promise<boolean>
}

/** Names one process of this machine, for as long as it is up. */
export interface ProcessIdentity {
  readonly pid: number
  /** As the kernel counts (processes.ts). */
  readonly startTime: string
  readonly bootId: string
}

/** Completes "postgres …". */
export function describeEnd(end: PostmasterEnd): string {
  switch (end.kind) {
    case 'clean':
      return 'ended with exit code 0'
    case 'exited':
      return `ended with exit code ${end.code}`
    case 'signalled':
      return `was ended by ${end.signal}`
    case 'notRun':
      return `could not be started: ${end.problem}`
    case 'gone':
      return end.where === 'container' ? 'ended with its container' : 'ended'
  }
}

export const exitedWith = (code: number): PostmasterEnd =>
  code === 0 ? { kind: 'clean' } : { kind: 'exited', code }

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
  /** Makes a cluster in `files.pgdata`. Errors: `precondition` with what it said. */
  initdb(files: ComputeFiles, args: readonly string[]): Promise<void>
  /**
   * Ends every process of Postgres that still runs on these files, from an earlier life of the proxy, and waits until
   * it is gone: backends can outlive a postmaster that was killed, and would serve what is no longer true.
   */
  endOld(files: ComputeFiles): Promise<void>
  /** Removes PGDATA, and makes it again, empty. Nothing of Postgres may run. */
  emptyPgdata(files: ComputeFiles): Promise<void>
  /** Puts files into PGDATA, as Postgres's user. */
  install(files: ComputeFiles, contents: InstalledFiles): Promise<void>
  /**
   * Starts `postgres` on `files.pgdata`, which takes the start token away; it writes into `files.log`. With `input` it
   * reads that and ends. Errors: `precondition` without a token, or where it cannot be run.
   */
  start(files: ComputeFiles, args: readonly string[], input?: string): Promise<Postmaster>
  /** Undefined where such a postmaster cannot be found again by a later life of this process. */
  identify(postmaster: Postmaster): Promise<ProcessIdentity | undefined>
  /**
   * The one that an earlier life of this process started, if it still runs on these files; never in single-user mode.
   */
  findOld(files: ComputeFiles, identity: ProcessIdentity): Promise<OldPostmaster | undefined>
  /** Called every second or so: `files.log` does not grow for ever. */
  boundLog(files: ComputeFiles): Promise<void>
}
