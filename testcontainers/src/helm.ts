/**
 * Helm: $UNDERSTORY_HELM, `helm` in PATH, or the cache's; where none of these is there and Go is, it is built from
 * source into the cache, which takes a few minutes once.
 */
import { chmod, copyFile, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describeError, fail } from '@understory/base'
import { withCacheLock } from './cache-lock.ts'
import { cacheRoot, cached } from './cache.ts'
import { temporaryDirectory } from './directory.ts'
import { runCommand } from './process.ts'
import { findProgram, isExecutable } from './program.ts'

const GO_PACKAGE = 'helm.sh/helm/v3/cmd/helm@v3.19.2'
const BUILD_MS_MAX = 20 * 60_000

/** Why there is none at once, or undefined. */
export async function helmMissing(): Promise<string | undefined> {
  try {
    const isThere = (await findHelm()) !== undefined
    return isThere ? undefined : 'Helm is neither in PATH nor built yet (.ci/run builds it)'
  } catch (error) {
    return describeError(error)
  }
}

/** Builds Helm where it is missing; why that could not be, or undefined. */
export async function prepareHelm(): Promise<string | undefined> {
  try {
    await helmProgram()
    return undefined
  } catch (error) {
    return describeError(error)
  }
}

/** Its path; built where it is missing. */
export async function helmProgram(): Promise<string> {
  const program = await findHelm()
  if (program !== undefined) return program
  const go = await findProgram('go')
  if (go === undefined)
    throw fail('precondition', 'there is neither a "helm" in PATH nor a Go to build it with', {
      hint: 'Install Helm 3.',
    })
  return withCacheLock('helm', () => cached('bin/helm', (path) => build(go, path)))
}

async function findHelm(): Promise<string | undefined> {
  const named = process.env['UNDERSTORY_HELM']
  if (named !== undefined && named !== '') {
    if (await isExecutable(named)) return named
    throw fail('precondition', `UNDERSTORY_HELM is "${named}", which is not a program`)
  }
  const inCache = join(cacheRoot(), 'bin/helm')
  return (await findProgram('helm')) ?? ((await isExecutable(inCache)) ? inCache : undefined)
}

async function build(go: string, path: string): Promise<void> {
  process.stderr.write(`building ${GO_PACKAGE} once, this takes a few minutes\n`)
  await using folder = await temporaryDirectory({ prefix: 'helm-build' })
  await mkdir(join(folder.path, 'bin'))
  await runCommand({
    name: `go install ${GO_PACKAGE}`,
    command: go,
    args: ['install', '-trimpath', '-ldflags=-s -w', GO_PACKAGE],
    cwd: folder.path,
    env: { GOBIN: join(folder.path, 'bin'), CGO_ENABLED: '0' },
    timeoutMs: BUILD_MS_MAX,
  })
  await copyFile(join(folder.path, 'bin/helm'), path)
  await chmod(path, 0o755)
}
