/** The metrics that every service has. */
import { CALL_SECONDS, FINE_SECONDS, OPEN } from './table.ts'
import type { MetricTable } from './table.ts'

/** Why a call failed; absent where it did not. */
const RPC = { 'rpc.system.name': ['grpc'], 'rpc.method': OPEN, 'rpc.status_code': OPEN } as const
/** Why a call was refused, as libs/rpc names it. */
export const RPC_REFUSALS = [
  'no_token',
  'wrong_token',
  'compressed',
  'too_many_waiting',
  'late',
  'too_large',
] as const
export const OBJECT_STORE_OPERATIONS = [
  'get',
  'get_range',
  'put',
  'put_if_absent',
  'put_if_match',
  'head',
  'list',
  'delete',
] as const

const delay = (of: string, what: string) =>
  ({
    name: `nodejs.eventloop.delay.${of}`,
    unit: 's',
    kind: 'gauge',
    labels: {},
    help: `${what} delay of the event loop since the last collection`,
  }) as const

export const PROCESS_METRICS = {
  eventLoopDelayMin: delay('min', 'smallest'),
  eventLoopDelayMax: delay('max', 'largest'),
  eventLoopDelayMean: delay('mean', 'mean'),
  eventLoopDelayStddev: delay('stddev', 'standard deviation of the'),
  eventLoopDelayP50: delay('p50', 'median'),
  eventLoopDelayP90: delay('p90', '90th percentile of the'),
  eventLoopDelayP99: delay('p99', '99th percentile of the'),
  eventLoopUtilization: {
    name: 'nodejs.eventloop.utilization',
    unit: '1',
    kind: 'gauge',
    labels: {},
    help: 'share of the time since the last collection in which the event loop was busy',
  },
  gcDuration: {
    name: 'v8js.gc.duration',
    unit: 's',
    kind: 'histogram',
    labels: { 'v8js.gc.type': ['major', 'minor', 'incremental', 'weakcb'] },
    help: 'pauses of garbage collection',
    edges: [0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1],
  },
  heapUsed: {
    name: 'v8js.memory.heap.used',
    unit: 'By',
    kind: 'gauge',
    labels: { 'v8js.heap.space.name': OPEN },
    help: 'heap in use',
  },
  heapLimit: {
    name: 'v8js.memory.heap.limit',
    unit: 'By',
    kind: 'gauge',
    labels: { 'v8js.heap.space.name': OPEN },
    help: 'heap that is set aside',
  },
  memoryUsage: {
    name: 'process.memory.usage',
    unit: 'By',
    kind: 'gauge',
    labels: {},
    help: 'memory that the process holds (resident set)',
  },
  cpuTime: {
    name: 'process.cpu.time',
    unit: 's',
    kind: 'counter',
    labels: { 'cpu.mode': ['user', 'system'] },
    help: 'CPU time used, of all threads',
  },
  uptime: {
    name: 'process.uptime',
    unit: 's',
    kind: 'gauge',
    labels: {},
    help: 'time since the process began',
  },
  diskUsage: {
    name: 'understory.disk.usage',
    unit: 'By',
    kind: 'gauge',
    labels: {},
    help: 'used bytes of the file system that holds the data folder',
  },
  diskLimit: {
    name: 'understory.disk.limit',
    unit: 'By',
    kind: 'gauge',
    labels: {},
    help: 'size of that file system, without what is kept for root',
  },
  rpcRefused: {
    name: 'understory.rpc.refused',
    unit: '{call}',
    kind: 'counter',
    labels: { reason: RPC_REFUSALS },
    help: 'calls refused before they reached their handlers; each reason is logged (call_refused)',
  },
  logRecords: {
    name: 'understory.log.records',
    unit: '{record}',
    kind: 'counter',
    labels: { level: ['error', 'warn', 'info', 'debug'] },
    help: 'log lines written',
  },
  telemetryDropped: {
    name: 'understory.telemetry.dropped',
    unit: '{item}',
    kind: 'counter',
    labels: { signal: ['metrics', 'traces', 'logs'] },
    help: 'series over the cap, and exports that the collector did not take',
  },
  rpcServerDuration: {
    name: 'rpc.server.call.duration',
    unit: 's',
    kind: 'histogram',
    labels: { ...RPC, 'error.type': OPEN },
    help: 'calls answered; a stream counts from its opening to its end',
    edges: CALL_SECONDS,
  },
  rpcClientDuration: {
    name: 'rpc.client.call.duration',
    unit: 's',
    kind: 'histogram',
    labels: { ...RPC, 'error.type': OPEN },
    help: 'calls made; a stream counts from its opening to its end',
    edges: CALL_SECONDS,
  },
  objectStoreDuration: {
    name: 'understory.objectstore.operation.duration',
    unit: 's',
    kind: 'histogram',
    labels: { operation: OBJECT_STORE_OPERATIONS, 'error.type': OPEN },
    help: 'operations of the object store; error.type is there only where one failed',
    edges: FINE_SECONDS,
  },
  objectStoreIo: {
    name: 'understory.objectstore.io',
    unit: 'By',
    kind: 'counter',
    labels: { direction: ['read', 'write'] },
    help: 'bytes read from and written to the object store',
  },
} as const satisfies MetricTable
