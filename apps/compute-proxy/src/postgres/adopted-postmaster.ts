/** A postmaster of an earlier life of this process, which is not its child: the kernel is asked how it is. */
import type { Clock } from '@understory/env'
import type { OldPostmaster, PostmasterEnd, ProcessIdentity } from './launcher.ts'
import type { ComputeFiles } from './layout.ts'
import { takeLease } from './lease.ts'
import type { Lease } from './lease.ts'
import { sendSignal, startTimeOf } from './processes.ts'
import { wasShutDown } from './shutdown-state.ts'

const POLL_MS = 50

export class AdoptedPostmaster implements OldPostmaster {
  readonly pid: number
  readonly exited: Promise<PostmasterEnd>
  readonly #files: ComputeFiles
  readonly #identity: ProcessIdentity
  readonly #clock: Clock
  #lease: Lease | undefined

  constructor(files: ComputeFiles, identity: ProcessIdentity, clock: Clock) {
    this.#files = files
    this.#identity = identity
    this.#clock = clock
    this.pid = identity.pid
    this.exited = this.#untilExit()
  }

  async keep(): Promise<boolean> {
    this.#lease = await takeLease(this.#files.lease, this.#clock)
    return this.#lease !== undefined
  }

  /** The number may be another process's by then. */
  isRunning(): boolean {
    return startTimeOf(this.pid) === this.#identity.startTime
  }

  signal(name: 'SIGINT' | 'SIGQUIT' | 'SIGKILL'): void {
    if (this.isRunning()) sendSignal(this.pid, name)
  }

  async #untilExit(): Promise<PostmasterEnd> {
    while (this.isRunning()) await this.#clock.sleep(POLL_MS)
    this.#lease?.release()
    return (await wasShutDown(this.#files)) ? { kind: 'clean' } : { kind: 'gone', where: 'earlier proxy' }
  }
}
