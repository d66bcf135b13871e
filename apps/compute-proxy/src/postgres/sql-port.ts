/** The TCP port of Postgres. */
import { createServer } from 'node:net'
import { fail } from '@understory/base'

/**
 * Errors: `precondition` where another process listens on the port already: Postgres would say so after all of its
 * files are made. `listenAddresses` as Postgres takes it: an address, or `*`.
 */
export async function checkPortIsFree(listenAddresses: string, port: number): Promise<void> {
  const host = listenAddresses === '*' ? '0.0.0.0' : listenAddresses
  const problem = await new Promise<Error | undefined>((resolve) => {
    const probe = createServer()
    probe.once('error', resolve)
    probe.listen(port, host, () => probe.close(() => resolve(undefined)))
  })
  if (problem === undefined || !('code' in problem) || problem.code !== 'EADDRINUSE') return
  throw fail('precondition', `port ${port} of ${host} is in use`, {
    hint: 'Stop what is using it, or create the tenant with another port.',
    cause: problem,
  })
}
