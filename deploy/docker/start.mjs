/** The one way into the image: `start.mjs PROGRAM [ARGS]`. */
const PROGRAMS = ['safekeeper', 'pageserver', 'control-plane', 'compute-proxy', 'cli']

const [program] = process.argv.splice(2, 1)
if (!PROGRAMS.includes(program)) {
  process.stderr.write(`understory: which program? One of ${PROGRAMS.join(', ')}, then its options\n`)
  process.exit(2)
}
process.argv[1] = `/opt/understory/apps/${program}/src/main.ts`
await import(`./apps/${program}/src/main.ts`)
