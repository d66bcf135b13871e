/**
 * A MinIO of its own. The program is $UNDERSTORY_MINIO, `minio` in PATH, or the cache's; where none of these is there
 * and Go is, it is built from source into the cache, which takes about ten minutes once.
 */
import { chmod, copyFile, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describeError, fail } from '@understory/base'
import { withCacheLock } from './cache-lock.ts'
import { cacheRoot, cached } from './cache.ts'
import { temporaryDirectory } from './directory.ts'
import { runCommand } from './process.ts'
import { findProgram, isExecutable } from './program.ts'
import { CREDENTIALS, type S3Server, s3Server } from './s3-server.ts'
import { answers, startService } from './service.ts'

const GO_PACKAGE = 'github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c'
const BUILD_MS_MAX = 30 * 60_000

/** Why no MinIO can be started at once, or undefined where one can. */
export async function minioMissing(): Promise<string | undefined> {
  try {
    const program = await findMinio()
    return program === undefined ? 'MinIO is neither in PATH nor built yet (.ci/run builds it)' : undefined
  } catch (error) {
    return describeError(error)
  }
}

/** Builds MinIO where it is missing; why that could not be, or undefined. */
export async function prepareMinio(): Promise<string | undefined> {
  try {
    await minioProgram()
    return undefined
  } catch (error) {
    return describeError(error)
  }
}

export async function startMinio(): Promise<S3Server> {
  const command = await minioProgram()
  const service = await startService({
    name: 'MinIO',
    plan: async (port, folder) => ({
      command,
      args: ['server', join(folder, 'data'), '--address', `127.0.0.1:${port}`, '--quiet'],
      env: {
        HOME: folder,
        MINIO_ROOT_USER: CREDENTIALS.accessKeyId,
        MINIO_ROOT_PASSWORD: CREDENTIALS.secretAccessKey,
        MINIO_BROWSER: 'off',
        MINIO_UPDATE: 'off',
        // Lets its data be on the root file system.
        MINIO_CI_CD: 'on',
      },
      ready: () => answers(`http://127.0.0.1:${port}/minio/health/cluster`, (status) => status === 200),
    }),
  })
  return s3Server(service)
}

async function findMinio(): Promise<string | undefined> {
  const named = process.env['UNDERSTORY_MINIO']
  if (named !== undefined && named !== '') {
    if (await isExecutable(named)) return named
    throw fail('precondition', `UNDERSTORY_MINIO is "${named}", which is not a program`)
  }
  const inCache = join(cacheRoot(), 'bin/minio')
  return (await findProgram('minio')) ?? ((await isExecutable(inCache)) ? inCache : undefined)
}

/** Its path; built where it is missing. */
export async function minioProgram(): Promise<string> {
  const program = await findMinio()
  if (program !== undefined) return program
  const go = await findProgram('go')
  if (go === undefined)
    throw fail('precondition', 'there is neither a "minio" in PATH nor a Go to build it with')
  return withCacheLock('minio', () => cached('bin/minio', (path) => build(go, path)))
}

async function build(go: string, path: string): Promise<void> {
  process.stderr.write(`building ${GO_PACKAGE} once, this takes about ten minutes\n`)
  await using folder = await temporaryDirectory({ prefix: 'minio-build' })
  await mkdir(join(folder.path, 'bin'))
  await runCommand({
    name: `go install ${GO_PACKAGE}`,
    command: go,
    args: ['install', '-trimpath', '-ldflags=-s -w', GO_PACKAGE],
    cwd: folder.path,
    env: { GOBIN: join(folder.path, 'bin'), CGO_ENABLED: '0' },
    timeoutMs: BUILD_MS_MAX,
  })
  await copyFile(join(folder.path, 'bin/minio'), path)
  await chmod(path, 0o755)
}
