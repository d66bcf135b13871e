/**
 * The one way into the image: `start.mjs PROGRAM [ARGS]`. Where the program's package.json names flags for Node, this
 * process becomes one with them.
 */
import { readFileSync } from 'node:fs'

const PROGRAMS = ['safekeeper', 'pageserver', 'control-plane', 'compute-proxy', 'cli']

const [program] = process.argv.splice(2, 1)
if (!PROGRAMS.includes(program)) {
  process.stderr.write(`understory: which program? One of ${PROGRAMS.join(', ')}, then its options\n`)
  process.exit(2)
}
const app = `${import.meta.dirname}/apps/${program}`
const { nodeFlags = [] } = JSON.parse(readFileSync(`${app}/package.json`, 'utf8'))
process.argv[1] = `${app}/src/main.ts`
if (nodeFlags.length > 0) {
  const args = [...process.execArgv, ...nodeFlags, ...process.argv.slice(1)]
  process.execve(process.execPath, [process.execPath, ...args], process.env)
}
await import(process.argv[1])
