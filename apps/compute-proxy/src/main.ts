/**
 * compute-proxy. `host` runs computes; `run` is one of them; `spare` becomes one when its host says so; `pod` is the
 * one of a Kubernetes pod. Exit codes: exit-codes.ts.
 */
import { runService } from '@understory/service/main'

const [command, ...argv] = process.argv.slice(2)

async function load() {
  if (command === 'host') return (await import('./commands/host.ts')).HOST
  if (command === 'run') return (await import('./commands/run.ts')).RUN
  if (command === 'pod') return (await import('./commands/pod.ts')).POD
  const { fail } = await import('@understory/base')
  throw fail('bad_argument', command === undefined ? 'which command?' : `unknown command "${command}"`, {
    hint: 'Use "host", "pod" or "run"; see --help of each.',
  })
}

if (command === 'spare') {
  const { RUN, nextOrder } = await import('./commands/spare.ts')
  await runService('compute-proxy', () => Promise.resolve(RUN), await nextOrder())
} else await runService('compute-proxy', load, { argv })
