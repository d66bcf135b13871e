// Goal: a control plane that is started on the store of the release before serves what is in it. Method: a real process
// over a directory with the golden document.
import { cp, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { createClient } from '@understory/sdk'
import { freePort, startProcess, temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'

const ROOM = resolve(import.meta.dirname, '..')
const TENANT_ID = '1'.repeat(32)
const [MAIN, FRESH] = ['2'.repeat(32), '3'.repeat(32)]

test('tenants, timelines, requests and removals of the release before are served', async () => {
  await using folder = await temporaryDirectory()
  const control = join(folder.path, 'objects', 'control')
  const document = join(control, 'tenants', `${TENANT_ID}.json`)
  for (const name of ['tenants', 'names']) await mkdir(join(control, name), { recursive: true })
  await cp(join(ROOM, 'testdata', 'tenant-document-v1.json'), document)
  await writeFile(join(control, 'names', 'shop'), JSON.stringify({ tenantId: TENANT_ID }))
  // It was the lead of the release before that wrote the document.
  const lead = { version: 1, epoch: 7, nodeId: 'before', nonce: 'x', renewals: 3, released: true }
  await writeFile(join(control, 'lead.json'), JSON.stringify(lead))
  const address = `127.0.0.1:${await freePort()}`
  await using program = await startProcess({
    name: 'control-plane',
    command: process.execPath,
    args: [
      '--disable-warning=ExperimentalWarning',
      join(ROOM, 'src', 'main.ts'),
      '--listen',
      address,
      '--metrics-listen',
      '127.0.0.1:0',
      '--object-store',
      join(folder.path, 'objects'),
    ],
    ready: /"event":"started"/,
    readyTimeoutMs: 15_000,
    parentDeathSignal: 'SIGKILL',
  })
  const client = createClient({ endpoint: address })
  const timelines = await client.listTimelines('shop')
  expect(timelines.map(({ name, timeline }) => [name, timeline?.timelineId])).toEqual([
    ['main', MAIN],
    ['fresh', FRESH],
  ])
  expect(await client.getFullPageWrites('shop')).toMatchObject({
    wanted: 'off',
    phase: 'off',
    sinceLsn: '0/1B00028',
  })
  expect(
    (await client.getSafekeepers('shop', 'main')).safekeepers.map(({ node }) => node).toSorted(),
  ).toEqual(['sk-1', 'sk-2', 'sk-3', 'sk-4'])
  expect(await client.listRemovals()).toMatchObject([{ timeline: { timelineId: '4'.repeat(32) } }])
  expect(await client.switchFullPageWrites('shop', 'on')).toMatchObject({
    wanted: 'on',
    phase: 'switching on',
  })
  const stored = async (path: string): Promise<unknown> => JSON.parse(await readFile(path, 'utf8'))
  expect(await stored(document)).toMatchObject({ version: 2, epoch: 8, quota: { bytes: 7 } })
  expect(await stored(join(control, 'timelines', TENANT_ID, `${MAIN}.json`))).toMatchObject({
    epoch: 8,
    fpw: { wanted: 'on', generation: 2, policy: { bytes: 8192 } },
    shards: [{ generation: 4 }, { generation: 2 }],
    retention: { days: 7 },
  })
  expect(await program.stop()).toMatchObject({ code: 0 })
}, 60_000)
