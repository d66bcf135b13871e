/**
 * `npm run images`: the image of the services. With Docker it is built and stays in the engine; without, or with
 * `--base-root`, an archive as `docker save` writes is made by this program itself. Exit codes: 0 done, 1 failed,
 * 2 wrong flags.
 */
import { chmod, copyFile, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describeError, isErrorCode } from '@understory/base'
import { oneOf, parseOptions, text } from '@understory/env'
import { runCommand as runProgram } from '@understory/testcontainers'
import { ROOT, runCommand } from '../run-command.ts'
import { writeImageArchive } from './archive.ts'
import { debianRoot } from './debian-root.ts'
import { writeProductionTree } from './production-tree.ts'
import { writeStandIns } from './stand-ins.ts'

const OPTIONS = {
  name: {
    read: text,
    fallback: 'understory:0.1.0',
    placeholder: 'NAME:TAG',
    help: 'name of the image',
  },
  base: {
    read: text,
    fallback: 'node:24-bookworm-slim',
    placeholder: 'IMAGE',
    help: 'base image, with Docker',
  },
  baseRoot: {
    read: text,
    optional: true,
    placeholder: 'DIR',
    help: 'root file system of a Debian with Node 24 in /usr/local/bin: no Docker is used (by default debootstrap makes one where there is no Docker)',
  },
  standIns: {
    read: oneOf('yes', 'no'),
    fallback: 'no',
    placeholder: 'yes|no',
    help: 'also make stand-ins for the images of Postgres, MinIO and Redis, for where nothing can be pulled',
  },
  output: {
    read: text,
    fallback: join(ROOT, '.understory', 'images'),
    placeholder: 'DIR',
    help: 'where the layout and the archives go',
  },
} as const

const say = (line: string): void => void process.stdout.write(`${line}\n`)

async function hasDocker(): Promise<boolean> {
  return (await runCommand('docker', ['info'], { show: false })).ok
}

async function main(): Promise<void> {
  const options = parseOptions('images', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return
  }
  const { name, base, baseRoot, standIns, output } = options.values
  const context = join(output, 'context')
  const { workspaces, packages } = await writeProductionTree(join(context, 'understory'))
  const command = join(context, 'bin', 'understory')
  await mkdir(join(context, 'bin'), { recursive: true })
  await copyFile(join(ROOT, 'deploy/docker/understory'), command)
  await chmod(command, 0o755)
  say(`${workspaces.length} of our packages and ${packages.length} of others in ${context}`)
  if (baseRoot === undefined && (await hasDocker())) {
    await copyFile(join(ROOT, 'deploy/docker/Dockerfile'), join(context, 'Dockerfile'))
    await runProgram({
      name: 'docker build',
      command: 'docker',
      args: ['build', '--build-arg', `BASE=${base}`, '--tag', name, context],
      timeoutMs: 30 * 60_000,
    })
    say(`${name} is in the Docker engine`)
  } else {
    const file = join(output, 'understory.tar')
    await writeImageArchive(file, {
      name,
      layers: [
        [{ at: '', folder: baseRoot ?? (await debianRoot()), modes: { 'usr/local/bin/node': 0o711 } }],
        [
          { at: 'opt/understory', folder: join(context, 'understory') },
          { at: 'usr/local/bin', folder: join(context, 'bin') },
        ],
      ],
      entrypoint: [
        'node',
        '--disable-warning=ExperimentalWarning',
        '--disable-sigusr1',
        '/opt/understory/start.mjs',
      ],
      user: '10001:10001',
      workingDirectory: '/opt/understory',
      environment: { NODE_ENV: 'production' },
    })
    say(`${name} -> ${file}`)
  }
  if (standIns === 'yes') await writeStandIns(output, [16, 17, 18], say)
}

try {
  await main()
} catch (error) {
  process.stderr.write(`understory: ${describeError(error)}\n`)
  process.exitCode = isErrorCode(error, 'bad_argument') ? 2 : 1
}
