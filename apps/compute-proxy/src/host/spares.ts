/**
 * A process that has loaded all of a compute and waits for the order which one it is to be: a compute that died is back
 * without the second that Node.js takes to start. One for a whole host.
 */
import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Clock, Log, Timer } from '@understory/env'

/** A compute that has just begun, on a machine with others that begin, needs the processor more. */
const PREPARE_AFTER_MS = 2_000
const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url))

/** The order that a spare gets. */
export interface ComputeOrder {
  readonly argv: readonly string[]
  /** All users of this machine may read a command line, and other tenants' superusers are among them. */
  readonly environment: Readonly<Record<string, string>>
}

export class Spares {
  readonly #environment: NodeJS.ProcessEnv
  readonly #clock: Clock
  readonly #log: Log
  #spare: ChildProcess | undefined
  #timer: Timer | undefined
  #isEnded = false

  /** `environment`: every compute has all of it. */
  constructor(environment: NodeJS.ProcessEnv, clock: Clock, log: Log) {
    this.#environment = environment
    this.#clock = clock
    this.#log = log
  }

  /** Some time from now there is one. */
  prepare(): void {
    if (this.#isEnded || this.#spare !== undefined || this.#timer !== undefined) return
    this.#timer = this.#clock.setTimer(PREPARE_AFTER_MS, () => {
      this.#timer = undefined
      this.#make()
    })
  }

  /** A compute's process: a spare, or where there is none a new one. */
  start(order: ComputeOrder): ChildProcess {
    const spare = this.#spare
    this.#spare = undefined
    if (spare?.connected === true) {
      spare.send(order)
      return spare
    }
    return this.#fork(['run', ...order.argv], order.environment)
  }

  end(): void {
    this.#isEnded = true
    this.#timer?.cancel()
    this.#spare?.kill('SIGKILL')
    this.#spare = undefined
  }

  #make(): void {
    if (this.#isEnded) return
    const spare = this.#fork(['spare'], {})
    this.#spare = spare
    const forget = (): void => {
      if (this.#spare === spare) this.#spare = undefined
    }
    spare.once('message', () => this.#log.info('spare_ready', { pid: spare.pid }))
    spare.once('error', forget)
    spare.once('exit', forget)
  }

  #fork(args: readonly string[], environment: Readonly<Record<string, string>>): ChildProcess {
    return fork(MAIN, args, {
      env: { ...this.#environment, ...environment },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
  }
}
