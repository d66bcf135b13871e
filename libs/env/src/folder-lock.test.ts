// Goal: a folder has one process at a time, and its lock ends with that one. Method: real processes.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { resolve } from 'node:path'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { lockFolder } from './folder-lock.ts'

const SOURCE = resolve(import.meta.dirname, 'folder-lock.ts')

test('a folder is held by one process, until it releases the folder or is killed', async () => {
  await using folder = await temporaryDirectory()
  const lock = await lockFolder(folder.path)
  await expect(lockFolder(folder.path)).rejects.toThrow('is in use')
  await lock.release()
  const holding = `import { lockFolder } from ${JSON.stringify(SOURCE)}
    globalThis.lock = await lockFolder(${JSON.stringify(folder.path)}); console.log('held'); setInterval(() => {}, 1000)`
  const other = spawn(process.execPath, ['--input-type=module-typescript', '-e', holding], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(other.stdout, 'data')
  await expect(lockFolder(folder.path)).rejects.toMatchObject({ code: 'precondition' })
  other.kill('SIGKILL')
  await once(other, 'exit')
  await (await lockFolder(folder.path)).release()
})

test('no user outside of the folder can be in its way', async () => {
  await using folder = await temporaryDirectory()
  await chmod(folder.path, 0o711)
  const { dev, ino } = await stat(folder.path)
  const squatter = createServer().listen(`\0understory-folder-${dev}-${ino}`)
  await once(squatter, 'listening')
  const lock = await lockFolder(folder.path)
  expect((await stat(`${folder.path}/.lock`)).mode & 0o777).toBe(0o600)
  if (process.geteuid?.() === 0) {
    const thief = spawn('flock', ['--nonblock', `${folder.path}/.lock`, 'true'], { uid: 65_534, gid: 65_534 })
    const [code] = (await once(thief, 'exit')) as [number]
    expect(code).not.toBe(0)
    const reader = spawn('flock', ['--nonblock', folder.path, 'true'], { uid: 65_534, gid: 65_534 })
    expect(((await once(reader, 'exit')) as [number])[0]).not.toBe(0)
  }
  await lock.release()
  squatter.close()
})
