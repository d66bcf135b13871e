/**
 * An S3Proxy of its own: a second implementation of S3 to test against. Needs Java 17, and Maven for the first time.
 */
import { chown, mkdir, rename, rmdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { describeError, fail } from '@understory/base'
import { withCacheLock } from './cache-lock.ts'
import { cached } from './cache.ts'
import { runCommand } from './process.ts'
import { findProgram } from './program.ts'
import { CREDENTIALS, type S3Server, s3Server } from './s3-server.ts'
import { answers, startService } from './service.ts'
import { unprivilegedUser } from '@understory/env'

const VERSION = '4.1.0'
const JAR = `s3proxy-${VERSION}-jar-with-dependencies.jar`

/** Why there is no S3Proxy to start, or undefined where there is. Downloads it if it must. */
export async function s3ProxyMissing(): Promise<string | undefined> {
  try {
    await javaProgram()
    await s3ProxyJar()
    return undefined
  } catch (error) {
    return describeError(error)
  }
}

export async function startS3Proxy(): Promise<S3Server> {
  const command = await javaProgram()
  const jar = await s3ProxyJar()
  const service = await startService({
    name: 'S3Proxy',
    plan: async (port, folder) => ({
      command,
      args: [
        '-Xmx256m',
        '-XX:+UseSerialGC',
        '-jar',
        jar,
        '--properties',
        await writeProperties(port, folder),
      ],
      // It refuses clients without credentials, which is an answer.
      ready: () => answers(`http://127.0.0.1:${port}/`, (status) => status === 403 || status === 200),
    }),
  })
  return s3Server(service)
}

async function writeProperties(port: number, folder: string): Promise<string> {
  const data = join(folder, 'data')
  const user = unprivilegedUser()
  await mkdir(data, { recursive: true })
  if (user !== undefined) await chown(data, user.uid, user.gid)
  const path = join(folder, 's3proxy.conf')
  await writeFile(
    path,
    [
      `s3proxy.endpoint=http://127.0.0.1:${port}`,
      's3proxy.authorization=aws-v2-or-v4',
      `s3proxy.identity=${CREDENTIALS.accessKeyId}`,
      `s3proxy.credential=${CREDENTIALS.secretAccessKey}`,
      'jclouds.provider=filesystem-nio2',
      `jclouds.filesystem.basedir=${data}`,
      '',
    ].join('\n'),
  )
  return path
}

async function javaProgram(): Promise<string> {
  const java = await findProgram('java')
  if (java === undefined)
    throw fail('precondition', '"java" is not in PATH', { hint: 'Install Java 17 or later.' })
  return java
}

async function s3ProxyJar(): Promise<string> {
  return withCacheLock('s3proxy', () =>
    cached(`jars/${JAR}`, async (path) => {
      const maven = await findProgram('mvn')
      if (maven === undefined)
        throw fail('precondition', '"mvn" is not in PATH, which S3Proxy is downloaded with')
      const folder = `${path}.d`
      const artifact = `org.gaul:s3proxy:${VERSION}:jar:jar-with-dependencies`
      const args = ['-q', '-B', 'dependency:copy', `-Dartifact=${artifact}`, `-DoutputDirectory=${folder}`]
      await runCommand({
        name: `mvn of ${artifact}`,
        command: maven,
        args,
        cwd: dirname(path),
        timeoutMs: 300_000,
      })
      await rename(join(folder, JAR), path)
      await rmdir(folder)
    }),
  )
}
