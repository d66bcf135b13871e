// Goal: the spec of a tenant's compute is hidden from other users of its machine, who may read every command line.
// Method: a real host.
import { readFile } from 'node:fs/promises'
import { realClock, silentLog } from '@understory/env'
import { encodeSpec } from '@understory/protocol'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { namedUsers, ownRange } from '../src/postgres/compute-users.ts'
import { Host } from '../src/host/host.ts'

test('the settings of a tenant are on no command line', async () => {
  await using folder = await temporaryDirectory()
  // No server listens at these addresses.
  const spec = {
    timeline: { tenantId: '1'.repeat(32), timelineId: '2'.repeat(32) },
    postgresMajor: 17,
    bootstrap: true,
    safekeepers: ['127.0.0.1:1'],
    pageservers: ['127.0.0.1:1'],
    stripeBlocks: 256,
    sqlPort: 0,
    settings: { 'extension.key': 'a secret' },
    specGeneration: 1n,
    fullPageWritesOff: false,
    requireTls: false,
    membership: undefined,
  }
  const host = new Host({
    nodeId: 'host-1',
    dataDirectory: folder.path,
    binaries: { 17: '/nonexistent' },
    adoptionGraceMs: 5_000,
    contactTimeoutMs: 30_000,
    ingestLagLimitMib: 512,
    hasMetrics: false,
    users: process.geteuid?.() === 0 ? { range: ownRange(), named: namedUsers() } : undefined,
    environment: process.env,
    logLevel: 'error',
    clock: realClock,
    log: silentLog,
  })
  await host.load()
  try {
    await host.ensure(spec)
    // It knows what it is to be.
    await expect.poll(async () => (await host.list())[0]?.address, { timeout: 20_000 }).toMatch(/^127/)
    const [{ pid } = { pid: 0 }] = await host.list()
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8')
    expect(commandLine).toContain('host-1')
    expect(commandLine).not.toContain(encodeSpec(spec))
  } finally {
    await host.stop()
  }
}, 60_000)
