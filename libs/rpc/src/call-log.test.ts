// Goal: who changed what, and who was refused, can be read afterwards, and refused calls cannot fill the log. Method:
// real calls on loopback with a log in memory and a clock that stands.
import { connect } from 'node:http2'
import { jsonLog, realClock } from '@understory/env'
import { expect, onTestFinished, test } from 'vitest'
import { CallLog, EFFECTS } from './call-log.ts'
import {
  PLAIN_SERVER,
  BrokerServiceService,
  ComputeHostServiceService,
  ComputeServiceService,
  ControlPlaneServiceClient,
  ControlPlaneServiceService,
  PageserverServiceService,
  SafekeeperServiceClient,
  SafekeeperServiceService,
  callUnary,
  createClient,
  service,
  startServer,
  unary,
} from './index.ts'
import type { RpcObserver } from './index.ts'
import { fail } from '@understory/base'

const TENANT_ID = 'a'.repeat(32)
const TIMELINE_ID = 'b'.repeat(32)

let nowMs = 0
function openLog(): { readonly lines: Record<string, unknown>[]; readonly callLog: CallLog } {
  const lines: Record<string, unknown>[] = []
  const log = jsonLog({ write: (line) => lines.push(JSON.parse(line) as Record<string, unknown>) })
  return { lines, callLog: new CallLog({ clock: { ...realClock, nowMs: () => nowMs }, log }) }
}

async function start(callLog: CallLog, observer?: RpcObserver) {
  const services = [
    service<never>(ControlPlaneServiceService, {
      deleteTenant: unary(() => ({})),
      recoverSafekeepers: unary(() => {
        throw fail('precondition', 'a majority answers')
      }),
      listNodes: unary(() => ({ nodes: [] })),
    } as never),
    service<never>(SafekeeperServiceService, {
      deleteTimeline: unary(() => ({})),
    } as never),
  ]
  const context = { ...PLAIN_SERVER, security: { token: 't' }, callLog, observer }
  const server = await startServer(context, { host: '127.0.0.1', port: 0, services })
  onTestFinished(() => server.stop(0))
  const control = (token: string) =>
    createClient({ security: { token } }, ControlPlaneServiceClient, server.address)
  const safekeeper = createClient({ security: { token: 't' } }, SafekeeperServiceClient, server.address)
  const clients = { control: control('t'), stranger: control('guess'), safekeeper }
  onTestFinished(() => Object.values(clients).forEach((client) => client.close()))
  return { ...clients, address: server.address }
}

test('each call that changes something is one line: by whom, from where, of what, and how it ended', async () => {
  const { lines, callLog } = openLog()
  const { control, safekeeper } = await start(callLog)
  await callUnary(control.deleteTenant.bind(control), { tenant: 'shop', stopCompute: true })
  const lost = {
    tenant: 'shop',
    timeline: 'main',
    nodeId: 'x',
    acceptLostCommits: true,
    fromObjectStore: false,
  }
  await expect(callUnary(control.recoverSafekeepers.bind(control), lost)).rejects.toThrow(
    'a majority answers',
  )
  await callUnary(control.listNodes.bind(control), {})
  const timeline = { tenantId: TENANT_ID, timelineId: TIMELINE_ID }
  await callUnary(safekeeper.deleteTimeline.bind(safekeeper), { timeline, leftWithGeneration: 0n })
  const by = {
    level: 'info',
    event: 'audit',
    principal: 'token 1',
    peer: expect.stringMatching(/^127\.0\.0\.1:\d+$/),
  }
  expect(lines).toMatchObject([
    { ...by, method: 'ControlPlaneService/DeleteTenant', tenant: 'shop', outcome: 'OK' },
    {
      ...by,
      method: 'ControlPlaneService/RecoverSafekeepers',
      tenant: 'shop',
      timeline: 'main',
      outcome: 'FAILED_PRECONDITION',
    },
    {
      ...by,
      method: 'SafekeeperService/DeleteTimeline',
      tenant: TENANT_ID,
      timeline: TIMELINE_ID,
      outcome: 'OK',
    },
  ])
})

test('a change that is asked for again and again is written once a minute', async () => {
  const { lines, callLog } = openLog()
  const { safekeeper } = await start(callLog)
  const drop = (timelineId: string): Promise<unknown> =>
    callUnary(safekeeper.deleteTimeline.bind(safekeeper), {
      timeline: { tenantId: TENANT_ID, timelineId },
      leftWithGeneration: 0n,
    })
  for (let i = 0; i < 5; i++) await drop(TIMELINE_ID)
  await drop('c'.repeat(32))
  nowMs += 60_000
  await drop(TIMELINE_ID)
  expect(lines.map(({ timeline, leftOut }) => [timeline, leftOut])).toEqual([
    [TIMELINE_ID, undefined],
    ['c'.repeat(32), undefined],
    [TIMELINE_ID, 4],
  ])
})

test('a host that comes from one port after another is written once a minute, and another host at once', () => {
  const { lines, callLog } = openLog()
  const path = '/understory.v1.SafekeeperService/DeleteTimeline'
  const request = { timeline: { tenantId: TENANT_ID, timelineId: TIMELINE_ID } }
  for (const peer of ['10.0.0.1:1', '10.0.0.1:2', '10.0.0.2:1'])
    callLog.change({ path, peer, principal: 'token 1' }, request, 'OK')
  expect(lines.map(({ peer }) => peer)).toEqual(['10.0.0.1:1', '10.0.0.2:1'])
})

test('refused calls are counted each, and logged once a minute', async () => {
  const { lines, callLog } = openLog()
  const counted: string[] = []
  const observed = { traceparent: undefined, run: <T>(work: () => T) => work(), end: () => undefined }
  const observer: RpcObserver = {
    beginClient: () => observed,
    beginServer: () => observed,
    refused: (reason) => counted.push(reason),
  }
  const { stranger, address } = await start(callLog, observer)
  for (let i = 0; i < 5; i++)
    await expect(callUnary(stranger.listNodes.bind(stranger), {})).rejects.toMatchObject({
      code: 'unauthenticated',
    })
  nowMs += 60_000
  await expect(callUnary(stranger.listNodes.bind(stranger), {})).rejects.toMatchObject({
    code: 'unauthenticated',
  })
  // Each from a connection, and so a port, of its own.
  for (let i = 0; i < 2; i++) {
    const session = connect(`http://${address}`)
    onTestFinished(() => session.destroy())
    const call = session.request({
      ':method': 'POST',
      ':path': '/understory.v1.ControlPlaneService/ListNodes',
      'content-type': 'application/grpc',
    })
    await new Promise((resolve) => call.once('response', resolve))
  }
  expect(counted).toEqual([...Array.from({ length: 6 }, () => 'wrong_token'), 'no_token', 'no_token'])
  const line = { level: 'warn', event: 'call_refused', method: 'ControlPlaneService/ListNodes' }
  expect(lines).toMatchObject([
    { ...line, reason: 'wrong_token' },
    { ...line, reason: 'wrong_token', leftOut: 4 },
    { ...line, reason: 'no_token' },
  ])
  expect(JSON.stringify(lines)).not.toContain('guess')
})

test('every RPC is decided on', () => {
  const all = [
    BrokerServiceService,
    ComputeHostServiceService,
    ComputeServiceService,
    ControlPlaneServiceService,
    PageserverServiceService,
    SafekeeperServiceService,
  ].flatMap((definition) => Object.values(definition).map(({ path }) => path.slice('/understory.v1.'.length)))
  expect(new Set(Object.keys(EFFECTS))).toEqual(new Set<string>(all))
})
