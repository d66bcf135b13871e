/**
 * A service as a process. This module imports next to nothing, so that signals have their handlers before the service
 * is loaded, which takes a second or more.
 */
import type { RunnableService } from './definition.ts'
import { StopRequest, orStopped } from './stop-request.ts'

export interface MainOptions {
  /** The arguments after the program's name. */
  readonly argv?: readonly string[]
  /** Over the variables of this process. */
  readonly environment?: Readonly<Record<string, string>>
}

/**
 * Runs the service that `load` gives, and ends the process: 0 where it was stopped, 2 for wrong settings, 1 for other
 * failures, which are one line on stderr with `name`.
 */
export async function runService(
  name: string,
  load: () => Promise<RunnableService>,
  { argv = process.argv.slice(2), environment: more = {} }: MainOptions = {},
): Promise<never> {
  const stop = new StopRequest()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.request(signal))
  try {
    const service = await orStopped(stop, load)
    if (service === 'stopped') return process.exit(0)
    const environment = Object.assign(process.env, more)
    return process.exit(await service.run({ argv, environment, stdout: process.stdout, stop }))
  } catch (error) {
    const { describeError, isErrorCode } = await import('@understory/base')
    process.stderr.write(`understory ${name}: ${describeError(error)}\n`)
    return process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
  }
}
