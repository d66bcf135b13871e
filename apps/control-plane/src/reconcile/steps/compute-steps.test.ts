/**
 * Goal: a compute is what the documents say, a bootstrap counts once it takes SQL, and its reports are stored
 * in the right order. Method: a compute host and a compute in memory.
 */
import { ComputeState, GetComputeStatusResponse } from '@understory/rpc'
import { expect, test } from 'vitest'
import { RUNNING, stepBench } from '../../../test/step-bench.ts'
import { REF, TIMELINE_ID } from '../../../test/support.ts'
import { entryOf } from '../../documents/tenant-document.ts'
import { bootstrap } from './bootstrap.ts'
import { compute } from './compute.ts'
import { configuration } from './configuration.ts'
import { password } from './password.ts'
import { removal } from './removal.ts'
import { restart } from './restart.ts'

const POSTGRES = { major: 17, systemId: 7n, pgTimelineId: 1, walSegmentBytes: 16 << 20 }
const { postgres: _, ...PLACED } = RUNNING
const NEW = { ...PLACED, bootstrapped: false }
const status = (change: Partial<GetComputeStatusResponse>): GetComputeStatusResponse =>
  GetComputeStatusResponse.fromPartial({ state: ComputeState.COMPUTE_STATE_RUNNING, ...change })

test('a compute gets its spec; another one under a higher generation', async () => {
  const bench = await stepBench(RUNNING)
  bench.compute().answer = status({ state: ComputeState.COMPUTE_STATE_UNSPECIFIED })
  expect(await bench.run(compute)).toMatchObject({ kind: 'unsettled', timeline: { specGeneration: 1 } })
  expect(bench.host().specs.get(TIMELINE_ID)).toMatchObject({ specGeneration: 1n, bootstrap: false })
  bench.compute().answer = status({})
  expect(await bench.run(compute)).toMatchObject({ kind: 'settled', timeline: { specGeneration: 1 } })
  await bench.parts.update((item) => ({ ...item, addresses: { ...item.addresses, 'sk-1': 'moved:1' } }))
  await bench.run(compute)
  expect(bench.host().specs.get(TIMELINE_ID)).toMatchObject({
    specGeneration: 2n,
    safekeepers: ['moved:1', 'sk-2:1', 'sk-3:1'],
  })
})

test('a compute host that is away keeps nothing else up', async () => {
  const bench = await stepBench(RUNNING)
  bench.host().isAway = true
  expect(await bench.run(compute)).toMatchObject({ kind: 'unsettled' })
})

test('no compute runs while WAL comes from the object store', async () => {
  const change = {
    number: 1,
    add: ['sk-1'],
    remove: [],
    problem: '',
    startedAtMs: 0,
    isCancelled: false,
    tookMs: 0,
  }
  const steps = [{ name: 'pull', done: false, tookMs: 0 } as const]
  const bench = await stepBench({ ...RUNNING, safekeeperChange: { ...change, reason: 'stored', steps } })
  expect(await bench.run(compute)).toEqual({ kind: 'settled' })
  expect(bench.host().specs.size).toBe(0)
})

test('what keeps the compute away is shown, and logged once', async () => {
  const bench = await stepBench(RUNNING)
  let problem = 'pod "a" waits for a node'
  const computes = { ...bench.parts.computes, ensure: () => Promise.resolve(problem) }
  const step = compute({ ...bench.parts, computes })
  const run = async (): Promise<unknown> =>
    step({
      tenant: await bench.tenant(),
      timeline: await bench.timeline(),
      observe: () => Promise.resolve({ compute: undefined, computeAddress: undefined, shards: new Map() }),
    })
  await run()
  problem = 'pod "a" waits for a node since 10 s'
  await run()
  expect(bench.parts.problems.compute).toBe(problem)
  expect(bench.events.filter(({ event }) => event === 'waiting_for_compute')).toHaveLength(1)
  problem = ''
  await run()
  expect(bench.parts.problems.compute).toBe('')
})

test('a new timeline counts as bootstrapped once its compute takes SQL, and not before', async () => {
  const bench = await stepBench(NEW)
  await bench.run(compute)
  bench.compute().answer = status({ state: ComputeState.COMPUTE_STATE_UNSPECIFIED, postgres: POSTGRES })
  expect(await bench.run(bootstrap)).toEqual({ kind: 'wait' })
  bench.compute().answer = status({ postgres: POSTGRES, startLsn: 0x1a2b3c8n })
  expect(await bench.run(bootstrap)).toMatchObject({
    kind: 'settled',
    timeline: { bootstrapped: true, startLsn: '0/1A2B3C8', postgres: { systemId: '7', major: 17 } },
  })
  expect(await bench.run(bootstrap)).toEqual({ kind: 'settled' })
})

test('a bootstrap that was interrupted begins again under another id, and the old one is removed', async () => {
  const bench = await stepBench(NEW)
  await bench.run(compute)
  expect(await bench.run(restart)).toEqual({ kind: 'settled' })
  bench.compute().answer = status({ birthInterrupted: true })
  expect(await bench.run(restart)).toEqual({ kind: 'end' })
  const tenant = await bench.tenant()
  expect(tenant.timelines).toMatchObject([{ name: 'main', beginning: { sqlPort: 0 } }])
  expect(tenant.removals).toMatchObject([{ timelineId: TIMELINE_ID, computeHost: 'host-1' }])
  expect(entryOf(tenant, TIMELINE_ID)).toBeUndefined()
})

test('one that was bootstrapped never begins again', async () => {
  const bench = await stepBench(RUNNING)
  await bench.run(compute)
  bench.compute().answer = status({ birthInterrupted: true })
  expect(await bench.run(restart)).toEqual({ kind: 'settled' })
})

test('a retired timeline leaves its tenant, and its reconciler ends', async () => {
  const bench = await stepBench(RUNNING)
  expect(await bench.run(removal)).toEqual({ kind: 'settled' })
  await bench.parts.timelines.retire(REF, 'deleted')
  expect(await bench.run(removal)).toEqual({ kind: 'end' })
  expect(await bench.tenant()).toMatchObject({ timelines: [], removals: [{ timelineId: TIMELINE_ID }] })
})

test('a newer configuration is published once, and given to a host that lacks it', async () => {
  const bench = await stepBench(RUNNING)
  await bench.run(compute)
  const version = { term: 3n, number: 2n }
  bench.compute().files = { version, files: { 'pg_hba.conf': Buffer.from('x') }, soundFiles: {} }
  bench.compute().answer = status({ configurationVersion: version })
  for (let i = 0; i < 2; i++) expect(await bench.run(configuration)).toEqual({ kind: 'settled' })
  expect(bench.events.filter(({ event }) => event === 'configuration_published')).toHaveLength(1)
  expect(bench.compute().calls.filter((call) => call === 'configuration')).toHaveLength(1)
  await bench.host().removeCompute(REF)
  await bench.run(compute)
  expect((await bench.host().computes())[0]).toMatchObject({ configurationVersion: version })
})

test('a password is set once Postgres is there, and is remembered by its generation', async () => {
  const verifier = 'SCRAM-SHA-256$...'
  const bench = await stepBench(RUNNING, { password: { verifier, generation: 2 } })
  expect(await bench.run(password)).toEqual({ kind: 'unsettled' })
  await bench.run(compute)
  expect(await bench.run(password)).toMatchObject({ kind: 'settled', timeline: { passwordGeneration: 2 } })
  expect(bench.compute().password).toEqual({ verifier, generation: 2 })
  await bench.run(password)
  expect(bench.compute().calls.filter((call) => call === 'setPassword')).toHaveLength(1)
})
