// Goal: two computes never share a folder. Method: a real process, while the test itself holds the folder.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { lockFolder } from '@understory/env'
import { encodeSpec } from '@understory/protocol'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'

const MAIN = resolve(import.meta.dirname, '..', 'src', 'main.ts')

test('a compute waits for the one before on its folder, and touches nothing there until then', async () => {
  await using root = await temporaryDirectory()
  const token = join(root.path, 'start-token')
  await writeFile(token, '')
  const lock = await lockFolder(root.path)
  // No server listens at these addresses.
  const spec = encodeSpec({
    timeline: { tenantId: '1'.repeat(32), timelineId: '2'.repeat(32) },
    postgresMajor: 17,
    bootstrap: true,
    safekeepers: ['127.0.0.1:1'],
    pageservers: ['127.0.0.1:1'],
    stripeBlocks: 256,
    sqlPort: 0,
    settings: {},
    specGeneration: 1n,
    fullPageWritesOff: false,
    requireTls: false,
    membership: undefined,
  })
  const args = [
    MAIN,
    'run',
    '--node-id',
    'host-1',
    '--spec',
    spec,
    '--root',
    root.path,
    '--bin',
    '/nonexistent',
    '--postgres-uid',
    '1879048200',
  ]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  try {
    const exited = once(child, 'exit')
    const events: string[] = []
    for await (const line of createInterface({ input: child.stderr })) {
      const { event } = JSON.parse(line) as { event: string }
      events.push(event)
      if (event === 'waiting_for_folder') {
        await access(token)
        await lock.release()
      }
      if (event === 'started') child.kill('SIGTERM')
    }
    expect(events.slice(0, 2)).toEqual(['waiting_for_folder', 'started'])
    expect(await exited).toEqual([0, null])
    await expect(access(token)).rejects.toThrow()
  } finally {
    child.kill('SIGKILL')
    await lock.release()
  }
})
