/** `npm run bench -- NAME [FLAGS]`: runs one of the benchmarks. Each prints ratios that were measured in one run. */
const BENCHMARKS: Readonly<Record<string, () => Promise<unknown>>> = {
  commit: () => import('./commit/main.ts'),
  fanout: () => import('./fanout/main.ts'),
  getpage: () => import('./getpage/main.ts'),
  ingest: () => import('./ingest/main.ts'),
  redo: () => import('./redo/main.ts'),
  scale: () => import('./scale/main.ts'),
  telemetry: () => import('./telemetry/main.ts'),
}

const [name = '', ...flags] = process.argv.slice(2)
const start = BENCHMARKS[name]
const names = Object.keys(BENCHMARKS).join(', ')
if (name === '--help') {
  process.stdout.write(
    `Usage: npm run bench -- NAME [FLAGS], NAME one of: ${names}. Each has a --help of its own.\n`,
  )
} else if (start === undefined) {
  process.stderr.write(`understory bench: which benchmark? npm run bench -- NAME, one of: ${names}\n`)
  process.exitCode = 2
} else {
  process.argv.splice(2, Infinity, ...flags)
  await start()
}
