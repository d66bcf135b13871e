/**
 * compute-proxy. `host` runs computes; `run` is one of them; `pod` is the one of a Kubernetes pod. Exit codes:
 * exit-codes.ts.
 */
import { runService } from '@understory/service/main'

const [command, ...argv] = process.argv.slice(2)

async function load() {
  if (command === 'host') return (await import('./commands/host.ts')).HOST
  if (command === 'run') return (await import('./commands/run.ts')).RUN
  if (command === 'pod') return (await import('./commands/pod.ts')).POD
  const { refuse } = await import('@understory/base')
  throw refuse('bad_argument', command === undefined ? 'which command?' : `unknown command "${command}"`, {
    hint: 'Use "host", "pod" or "run"; see --help of each.',
  })
}

await runService('compute-proxy', load, { argv })
