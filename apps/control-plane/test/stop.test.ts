// Goal: a control plane stops on request from its first moment on, even with a store that hangs. Method: a real
// process, and a store that takes connections and says nothing.
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { resolve } from 'node:path'
import { freePort, startProcess } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'

const MAIN = resolve(import.meta.dirname, '..', 'src', 'main.ts')
const STOP_MS_MAX = 5_000

test('it ends by itself while it waits for the first answer of its store', async () => {
  const store = createServer().listen(0, '127.0.0.1')
  onTestFinished(() => void store.close())
  await once(store, 'listening')
  const isAsked = once(store, 'connection')
  const { port } = store.address() as AddressInfo
  await using program = await startProcess({
    name: 'control-plane',
    command: process.execPath,
    args: [
      '--disable-warning=ExperimentalWarning',
      MAIN,
      '--listen',
      `127.0.0.1:${await freePort()}`,
      '--metrics-listen',
      '127.0.0.1:0',
      '--object-store',
      `s3://bucket/prefix?endpoint=http://127.0.0.1:${port}&region=us-east-1`,
    ],
    env: { AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'secret' },
    parentDeathSignal: 'SIGKILL',
  })
  await isAsked
  const startedMs = performance.now()
  // Without a handler it would end by the signal; as process 1 of a container, not at all.
  expect(await program.stop()).toMatchObject({ code: 0 })
  expect(performance.now() - startedMs).toBeLessThan(STOP_MS_MAX)
})
