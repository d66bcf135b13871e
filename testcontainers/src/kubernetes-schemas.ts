/**
 * The schemas of Kubernetes releases, and whether manifests keep to them: by the Python package
 * kubernetes-validate, which carries them all, installed once into the cache.
 */
import { join } from 'node:path'
import { describeError, fail } from '@understory/base'
import { withCacheLock } from './cache-lock.ts'
import { cached } from './cache.ts'
import { runCommand } from './process.ts'
import { findProgram } from './program.ts'

const VERSION = '1.37.0'
const INSTALL_MS_MAX = 5 * 60_000
const CHECK_MS_MAX = 60_000

/** Installs it where it is missing; why that could not be, or undefined. */
export async function kubernetesSchemasMissing(): Promise<string | undefined> {
  try {
    await python()
    return undefined
  } catch (error) {
    return describeError(error)
  }
}

/** Error: refused with every property that the release does not know or has otherwise. */
export async function checkManifests(file: string, kubernetesVersion: string): Promise<void> {
  await runCommand({
    name: `kubernetes-validate ${kubernetesVersion}`,
    command: await python(),
    args: ['-m', 'kubernetes_validate', '--strict', '--quiet', '-k', kubernetesVersion, file],
    timeoutMs: CHECK_MS_MAX,
  })
}

/** The Python of an environment that has the package. */
async function python(): Promise<string> {
  const folder = await withCacheLock('kubernetes-validate', () =>
    cached(`kubernetes-validate-${VERSION}`, install),
  )
  return join(folder, 'bin/python3')
}

async function install(path: string): Promise<void> {
  const system = await findProgram('python3')
  if (system === undefined)
    throw fail('precondition', 'there is no Python to install kubernetes-validate with')
  const run = (command: string, ...args: string[]): Promise<string> =>
    runCommand({ name: `python ${args.join(' ')}`, command, args, timeoutMs: INSTALL_MS_MAX })
  await run(system, '-m', 'venv', path)
  await run(join(path, 'bin/python3'), '-m', 'pip', 'install', '--quiet', `kubernetes-validate==${VERSION}`)
}
