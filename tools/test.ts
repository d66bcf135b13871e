/** `npm test [-- FILTER]`: every vitest project; with a filter, the test files whose path contains it. */
import { runCommand } from './run-command.ts'

const { ok } = await runCommand('vitest', ['run', ...process.argv.slice(2)])
process.exitCode = ok ? 0 : 1
