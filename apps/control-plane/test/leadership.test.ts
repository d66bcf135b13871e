// Goal: a second control plane over one store stands by and takes over. Method: real processes over a tenants.
import { join, resolve } from 'node:path'
import { createClient } from '@understory/sdk'
import { freePort, startProcess, temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'

const MAIN = resolve(import.meta.dirname, '..', 'src', 'main.ts')

async function startControlPlane(folder: string, nodeId: string) {
  const address = `127.0.0.1:${await freePort()}`
  const program = await startProcess({
    name: nodeId,
    command: process.execPath,
    args: [
      '--disable-warning=ExperimentalWarning',
      MAIN,
      '--node-id',
      nodeId,
      '--lease-ms',
      '1000',
      '--listen',
      address,
      '--metrics-listen',
      '127.0.0.1:0',
      '--object-store',
      join(folder, 'objects'),
    ],
    ready: /"event":"(started|waiting_for_leadership)"/,
    readyTimeoutMs: 15_000,
    parentDeathSignal: 'SIGKILL',
  })
  return { program, client: createClient({ endpoint: address }) }
}

test('the one that stands by refuses what it is asked, and takes over from one that was killed', async () => {
  await using folder = await temporaryDirectory()
  const first = await startControlPlane(folder.path, 'first')
  await using killed = first.program
  await first.client.createTenant({ name: 'acme' })
  const second = await startControlPlane(folder.path, 'second')
  await using standby = second.program
  expect(standby.output()).toContain('"event":"waiting_for_leadership"')
  await expect(second.client.createTenant({ name: 'other' })).rejects.toMatchObject({
    code: 'unavailable',
    message: expect.stringContaining('control plane "second" does not lead'),
  })

  killed.kill('SIGKILL')
  await standby.waitForOutput(/"event":"started"/, 15_000)
  expect((await second.client.getTenant('acme')).name).toBe('acme')
  await second.client.createTenant({ name: 'other' })

  // The first, started again, is the one that stands by now; a clean stop hands the lead over at once.
  const again = await startControlPlane(folder.path, 'first')
  await using third = again.program
  expect(third.output()).toContain('"event":"waiting_for_leadership"')
  expect(await standby.stop()).toMatchObject({ code: 0 })
  await third.waitForOutput(/"event":"started"/, 15_000)
  expect((await again.client.getTenant('other')).name).toBe('other')
  expect(await third.stop()).toMatchObject({ code: 0 })
}, 60_000)
