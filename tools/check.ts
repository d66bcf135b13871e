/**
 * `npm run check`: every static check, each counted. `npm run fix` repairs what can be repaired by itself.
 */
import { pathToFileURL } from 'node:url'
import { runCommand } from './run-command.ts'
import type { CommandResult } from './run-command.ts'

/** The messages of the last release; `npm run proto:release` writes it. */
const PROTO_BASELINE = 'proto/baseline.binpb'

interface Check {
  readonly name: string
  readonly run: () => Promise<CommandResult>
}

/** dependency-cruiser succeeds on nothing at all, so its count of modules is part of the check. */
async function checkLayers(): Promise<CommandResult> {
  const rooms = ['libs', 'apps', 'testcontainers', 'bench', 'tools', 'test']
  const result = await runCommand('depcruise', ['--config', '.dependency-cruiser.mjs', ...rooms], {
    show: false,
  })
  const modules = Number(/\((\d+) modules/.exec(result.output)?.[1] ?? '0')
  if (modules >= 50) return result
  return { ok: false, output: `${result.output}\nonly ${modules} modules were cruised\n` }
}

/** Programs of the last release understand this one's messages, and the other way round. */
async function checkBreaking(): Promise<CommandResult> {
  const result = await runCommand('buf', ['breaking', '--against', PROTO_BASELINE], { show: false })
  if (result.ok) return result
  const hint =
    'Add fields and messages instead of changing them; mark what is not used any more as deprecated.'
  return { ok: false, output: `${result.output}${hint}\n` }
}

/** The committed code is what buf would generate now. */
async function checkGenerated(): Promise<CommandResult> {
  const generated = await runCommand('buf', ['generate'], { show: false })
  if (!generated.ok) return generated
  const difference = await runCommand('git', ['status', '--porcelain', '--', 'libs/rpc/src/gen'], {
    show: false,
  })
  const ok = difference.ok && difference.output === ''
  return {
    ok,
    output: ok ? '' : `generated code is not what proto/ says: run npm run gen\n${difference.output}`,
  }
}

const CHECKS: readonly Check[] = [
  { name: 'format', run: () => runCommand('oxfmt', ['--check'], { show: false }) },
  { name: 'lint', run: () => runCommand('oxlint', ['--type-aware'], { show: false }) },
  { name: 'types', run: () => runCommand('tsc', ['-p', 'tsconfig.json'], { show: false }) },
  { name: 'layers', run: checkLayers },
  { name: 'dead code', run: () => runCommand('knip', [], { show: false }) },
  { name: 'proto', run: () => runCommand('buf', ['lint'], { show: false }) },
  { name: 'proto, against the last release', run: checkBreaking },
  { name: 'generated code', run: checkGenerated },
]

/** Runs them one after the other and returns how many passed and failed. */
export async function runChecks(): Promise<{ readonly passed: number; readonly failed: number }> {
  let failed = 0
  for (const { name, run } of CHECKS) {
    const { ok, output } = await run()
    process.stdout.write(`${ok ? 'ok  ' : 'FAIL'} ${name}\n`)
    if (!ok) {
      failed++
      process.stdout.write(output)
    }
  }
  return { passed: CHECKS.length - failed, failed }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  if (process.argv.includes('--help')) {
    process.stdout.write(
      'Usage: npm run check [-- --fix]: every static check, or the repairs that tools make.\n',
    )
  } else if (process.argv.includes('--fix')) {
    await runCommand('buf', ['generate'])
    await runCommand('oxlint', ['--type-aware', '--fix'])
    await runCommand('oxfmt', [])
  } else {
    const { passed, failed } = await runChecks()
    process.stdout.write(`${passed} passed, ${failed} failed\n`)
    process.exitCode = failed === 0 ? 0 : 1
  }
}
