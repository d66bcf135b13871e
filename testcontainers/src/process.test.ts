// Child processes are bounded: in start, in output, in life; and folders and ports go back.
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { temporaryDirectory } from './directory.ts'
import { freePort } from './port.ts'
import { isAlive, runCommand, startProcess } from './process.ts'
import { parsePasswd } from '@understory/env'

const node = (script: string) => ({ name: 'script', command: process.execPath, args: ['-e', script] })

test('ready by output, ended by signal', async () => {
  await using child = await startProcess({
    ...node('console.log("up"); setInterval(() => {}, 1000)'),
    ready: /^up$/m,
  })
  expect(child.exitStatus).toBeUndefined()
  expect(child.stdout()).toBe('up\n')
  expect(await child.stop()).toEqual({ code: null, signal: 'SIGTERM' })
  expect(existsSync(`/proc/${child.pid}`)).toBe(false)
})

test('one that ends or stalls before it is ready is an error that shows its output', async () => {
  await expect(
    startProcess({ ...node('console.error("no such thing"); process.exit(3)'), ready: /up/ }),
  ).rejects.toMatchObject({
    message: 'script ended with exit code 3 before it was ready',
    detail: 'no such thing\n',
  })
  const stalled = startProcess({
    ...node('setInterval(() => {}, 1000)'),
    ready: async () => false,
    readyTimeoutMs: 50,
  })
  await expect(stalled).rejects.toMatchObject({ code: 'timeout' })
  await expect(startProcess({ name: 'none', command: '/none/such' })).rejects.toMatchObject({
    code: 'precondition',
  })
  await expect(startProcess({ name: 'none', command: 'no-such-program' })).rejects.toMatchObject({
    code: 'precondition',
  })
})

test('one that ignores SIGTERM is killed', async () => {
  const child = await startProcess({
    ...node('process.on("SIGTERM", () => {}); console.log("up"); setInterval(() => {}, 1000)'),
    ready: /up/,
    stopTimeoutMs: 100,
  })
  expect(await child.stop()).toEqual({ code: null, signal: 'SIGKILL' })
})

test('of much output the end is kept', async () => {
  const child = await startProcess(node('process.stdout.write("x".repeat(200_000) + "end")'))
  await child.exited
  expect(child.output().length).toBe(64 * 1024)
  expect(child.output().endsWith('xend')).toBe(true)
})

test('a child dies with the process that started it', async () => {
  await using folder = await temporaryDirectory()
  const script = join(folder.path, 'parent.ts')
  const library = new URL('./process.ts', import.meta.url).href
  writeFileSync(
    script,
    `
    const { startProcess } = await import('${library}')
    const child = await startProcess({ name: 'sleep', command: 'sleep', args: ['1000'] })
    console.log('child', child.pid)
    setInterval(() => {}, 1000)`,
  )
  await using parent = await startProcess({
    name: 'parent',
    command: process.execPath,
    args: [script],
    ready: /child \d+/,
  })
  const pid = /child (\d+)/.exec(parent.output())?.[1]
  expect(await isAlive(Number(pid))).toBe(true)
  await parent.stop('SIGKILL')
  await expect.poll(() => isAlive(Number(pid))).toBe(false)
})

test('a command gives its output or its failure', async () => {
  expect(await runCommand({ name: 'echo', command: 'echo', args: ['hello'] })).toBe('hello\n')
  const failing = runCommand({ name: 'sh', command: 'sh', args: ['-c', 'echo why >&2; exit 2'] })
  await expect(failing).rejects.toMatchObject({ message: 'sh failed with exit code 2', detail: 'why\n' })
})

test('the folder of a killed process goes when the next one is made', async () => {
  const script = (then: string) => `
    const { temporaryDirectory } = await import('${new URL('./directory.ts', import.meta.url).href}')
    console.log('made', (await temporaryDirectory()).path)
    ${then}`
  const child = (then: string) => ({
    name: 'script',
    command: process.execPath,
    args: ['--input-type=module', '-e', script(then)],
    ready: /made .*\n/,
  })
  const killed = await startProcess(child('setInterval(() => {}, 1000)'))
  const path = /made (.*)/.exec(killed.output())?.[1] ?? ''
  expect(existsSync(path)).toBe(true)
  await killed.stop('SIGKILL')
  const next = await startProcess(child(''))
  await next.exited
  expect(existsSync(path)).toBe(false)
  expect(existsSync(/made (.*)/.exec(next.output())?.[1] ?? '/')).toBe(false)
})

test('folders go, ports differ, users are read', async () => {
  let path: string
  {
    await using folder = await temporaryDirectory()
    path = folder.path
    writeFileSync(join(path, 'f'), 'x')
  }
  expect(existsSync(path)).toBe(false)
  expect(await freePort()).not.toBe(await freePort())
  expect(
    parsePasswd('root:x:0:0:root:/root:/bin/sh\n\npostgres:x:101:104::/:/bin/sh\n').get('postgres'),
  ).toEqual({ name: 'postgres', uid: 101, gid: 104 })
})
