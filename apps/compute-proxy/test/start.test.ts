// Goal: a proxy that is killed while it starts Postgres leaves nothing behind that starts it later, on files that are
// its successor's by then (I4). Method: a real process with the launcher of a compute host, killed while a program on
// the way to Postgres waits.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, chmod, chown, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { unprivilegedUser } from '@understory/env'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { chooseUser, namedUsers, ownRange } from '../src/postgres/compute-users.ts'
import { isProcessRunning } from '../src/postgres/processes.ts'

const FIXTURE = resolve(import.meta.dirname, 'start-proxy.ts')
const isRoot = process.geteuid?.() === 0

/** Waits in front of the program of that name, where the arguments match, until `go` is there. */
const waitsBefore = (folder: string, program: string, pattern: string): string => `#!/bin/sh
case "$*" in ${pattern})
  echo $$ >${folder}/waiting.new; mv ${folder}/waiting.new ${folder}/waiting
  until [ -e ${folder}/go ]; do sleep 0.02; done
esac
PATH=\${PATH#*:} exec ${program} "$@"
`

async function startUntil(program: string, pattern: string, hasOwner: boolean) {
  const folder = await temporaryDirectory()
  const { path } = folder
  const at = (name: string): string => join(path, name)
  onTestFinished(() => folder[Symbol.asyncDispose]())
  const user = isRoot && !hasOwner ? unprivilegedUser() : undefined
  for (const name of ['root', 'root/own', 'path', 'bin']) await mkdir(at(name), { recursive: true })
  await writeFile(at('bin/postgres'), `#!/bin/sh\necho $$ >>${at('root/own/started')}\n`, { mode: 0o755 })
  await writeFile(at(`path/${program}`), waitsBefore(at('root/own'), program, pattern), { mode: 0o755 })
  await chmod(path, 0o711)
  for (const name of ['root', 'root/own']) {
    await chmod(at(name), 0o777)
    if (user !== undefined) await chown(at(name), user.uid, user.gid)
  }
  const uid = hasOwner ? String(chooseUser(path, ownRange(), namedUsers())) : ''
  const searched = `${at('path')}:${process.env['PATH']}`
  const proxy = spawn(process.execPath, [FIXTURE, at('root'), at('bin'), searched, uid], {
    ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  onTestFinished(() => void proxy.kill('SIGKILL'))
  const waiting = async () => Number(await readFile(at('root/own/waiting'), 'utf8').catch(() => '0'))
  await expect.poll(waiting, { timeout: 30_000 }).toBeGreaterThan(0)
  const hasStarted = () =>
    access(at('root/own/started')).then(
      () => true,
      () => false,
    )
  return { proxy, pid: await waiting(), go: () => writeFile(at('root/own/go'), ''), hasStarted }
}

const OWNERS = isRoot ? [true, false] : [false]
const MOMENTS = [
  { moment: 'before the shell begins', program: 'sh', pattern: '*"Written by"*' },
  { moment: 'before its user is changed', program: 'setpriv', pattern: '*postgres' },
]
const CASES = OWNERS.flatMap((hasOwner) => MOMENTS.map((moment) => ({ hasOwner, ...moment })))

test.each(CASES)(
  'Postgres is not started for a proxy that was killed $moment (a user of its own: $hasOwner)',
  async ({ program, pattern, hasOwner }) => {
    const { proxy, pid, go, hasStarted } = await startUntil(program, pattern, hasOwner)
    const exited = once(proxy, 'exit')
    proxy.kill('SIGKILL')
    await exited
    await go()
    await expect.poll(() => isProcessRunning(pid), { timeout: 10_000 }).toBe(false)
    expect(await hasStarted()).toBe(false)
  },
  60_000,
)

test.each(OWNERS)(
  'Postgres is started for one that lives (a user of its own: %s)',
  async (hasOwner) => {
    const { go, hasStarted } = await startUntil('sh', '*"Written by"*', hasOwner)
    await go()
    await expect.poll(hasStarted, { timeout: 10_000 }).toBe(true)
  },
  60_000,
)
