// Goal: `--help` of every command of package.json prints how it is used, does nothing, and claims nothing.
// Method: each is run as its script says, without the bootstrap, which only installs what is missing.
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { ROOT } from './run-command.ts'

const run = promisify(execFile)
const BOOTSTRAP = 'node tools/bootstrap.mjs '
/** vitest has a help of its own; `fix` is `check` with a flag. */
const OTHERS = ['test', 'fix']
/** The output of a command that has done something. */
const CLAIM = /everything held|promises? (kept|broken)|passed|\d+ failed|verified/

const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  readonly scripts: Readonly<Record<string, string>>
}
const commands = Object.entries(scripts).filter(
  ([name, line]) => line.startsWith(BOOTSTRAP) && !OTHERS.includes(name),
)

test('there are commands to look at', () => {
  expect(commands.length).toBeGreaterThan(12)
})

test.each(commands)('npm run %s -- --help', async (_, line) => {
  const args = [...line.slice(BOOTSTRAP.length).split(' '), '--help']
  const { stdout, stderr } = await run(process.execPath, args, { cwd: ROOT, timeout: 30_000 })
  expect(stdout).toMatch(/^(usage:|understory )/i)
  expect(stdout).not.toMatch(CLAIM)
  expect(stderr).toBe('')
})
