/** A server on a free port of 127.0.0.1 with a folder of its own, that tests may stop, kill and start again. */
import { UnderstoryError, assert } from '@understory/base'
import { type TemporaryDirectory, temporaryDirectory } from './directory.ts'
import { freePort } from './port.ts'
import { type ProcessOptions, type RunningProcess, startProcess } from './process.ts'
import { unprivilegedUser } from '@understory/env'

export interface Service extends AsyncDisposable {
  readonly port: number
  /** Asks it to end and waits until it has; its folder stays. */
  stop(): Promise<void>
  /** SIGKILL, as a power cut would. */
  kill(): Promise<void>
  /** Starts it again on the same port and folder. */
  start(): Promise<void>
  /** The end of what it printed, over all starts. */
  log(): string
}

export interface ServicePlan {
  readonly name: string
  /** How to run it; asked again for each start. */
  readonly plan: (port: number, folder: string) => Promise<Omit<ProcessOptions, 'name' | 'user'>>
}

const START_ATTEMPTS_COUNT = 5

/** Starts it; on another port where that is taken by then. */
export async function startService({ name, plan }: ServicePlan): Promise<Service> {
  const folder = await temporaryDirectory({ prefix: name.toLowerCase(), owner: unprivilegedUser() })
  try {
    for (let attempt = 1; ; attempt++) {
      const service = new RunningService(name, plan, await freePort(), folder)
      try {
        await service.start()
        return service
      } catch (error) {
        const isTaken =
          error instanceof UnderstoryError && /already in use|bindexception/i.test(error.detail ?? '')
        if (!isTaken || attempt === START_ATTEMPTS_COUNT) throw error
      }
    }
  } catch (error) {
    await folder[Symbol.asyncDispose]()
    throw error
  }
}

class RunningService implements Service {
  readonly port: number
  readonly #name: string
  readonly #plan: ServicePlan['plan']
  readonly #folder: TemporaryDirectory
  #process: RunningProcess | undefined
  #earlierLog = ''

  constructor(name: string, plan: ServicePlan['plan'], port: number, folder: TemporaryDirectory) {
    this.#name = name
    this.#plan = plan
    this.port = port
    this.#folder = folder
  }

  async start(): Promise<void> {
    assert(
      this.#process?.exitStatus !== undefined || this.#process === undefined,
      () => `${this.#name} runs already`,
    )
    this.#earlierLog = this.log()
    this.#process = undefined
    const options = await this.#plan(this.port, this.#folder.path)
    this.#process = await startProcess({ ...options, name: this.#name, user: unprivilegedUser() })
  }

  async stop(): Promise<void> {
    await this.#process?.stop()
  }

  async kill(): Promise<void> {
    await this.#process?.stop('SIGKILL')
  }

  log(): string {
    return this.#earlierLog + (this.#process?.output() ?? '')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.kill()
    } finally {
      await this.#folder[Symbol.asyncDispose]()
    }
  }
}

/** True once the URL answers with a status that `isReady` takes. */
export async function answers(url: string, isReady: (status: number) => boolean): Promise<boolean> {
  const response = await fetch(url, { signal: AbortSignal.timeout(2_000) })
  await response.body?.cancel()
  return isReady(response.status)
}
