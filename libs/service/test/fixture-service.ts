/** A service of a few parts, each of which logs when it begins and ends; its `--mode` says what goes wrong. */
import { setTimeout as delay } from 'node:timers/promises'
import { fail } from '@understory/base'
import type { Broker } from '@understory/broker'
import { oneOf } from '@understory/env'
import { BrokerServiceService, service, unary } from '@understory/rpc'
import type { BrokerServiceServer, Handlers } from '@understory/rpc'
import { COMMON, defineService, loopback } from '../src/index.ts'
import type { Composition, Service } from '../src/index.ts'

const MODES = ['serves', 'fails', 'refuses', 'hangs', 'waits', 'fenced', 'stop-fails'] as const

export const CONFIG = {
  nodeId: { ...COMMON.nodeId, fallback: 'fixture-1' },
  listen: { ...COMMON.listen, fallback: loopback(0) },
  metricsListen: COMMON.metricsListen,
  mode: { read: oneOf(...MODES), fallback: 'serves', placeholder: 'MODE', help: 'what goes wrong' },
  logLevel: COMMON.logLevel,
} as const

const METRICS = {} as const
const CALL_MS = 500
const EXIT_FENCED = 3

export const FIXTURE = defineService(
  {
    name: 'fixture',
    telemetryName: 'understory-fixture',
    config: CONFIG,
    metrics: METRICS,
    identity: ({ nodeId }) => ({ nodeId, logFields: { role: 'fixture' } }),
  },
  compose,
)

async function compose(own: Service<typeof CONFIG, typeof METRICS>): Promise<Composition> {
  const { log } = own.env
  const { mode } = own.values
  log.info('composing')
  if (mode === 'fails') throw fail('precondition', 'the disk is full', { hint: 'Make room.' })
  if (mode === 'refuses') throw fail('bad_argument', 'the mode cannot be')
  if (mode === 'hangs') await new Promise((resolve) => setTimeout(resolve, 3_600_000))
  const broker = {
    announce: async (key: string, value: unknown) => {
      log.info('announced', { key, value })
      return { key, stop: async () => log.info('withdrawn') }
    },
  } as unknown as Broker
  const handlers = {
    listAnnouncements: unary(async () => {
      log.info('call_began')
      await delay(CALL_MS)
      return { announcements: [] }
    }),
  } as unknown as Handlers<BrokerServiceServer>
  return {
    server: {
      ...own.values.listen,
      services: [service<BrokerServiceServer>(BrokerServiceService, handlers)],
    },
    announce: { broker, kind: 'fixture' },
    prepare: async () => {
      if (mode !== 'waits') return
      log.info('waiting')
      await new Promise((_, reject) => {
        const stopped = (): void => reject(fail('cancelled', 'a stop was requested'))
        own.stop.signal.addEventListener('abort', stopped, { once: true })
      })
    },
    begin: () => log.info('begun'),
    startedFields: () => ({ parts: 2 }),
    ...(mode === 'fenced' || mode === 'stop-fails' ? { run: async () => EXIT_FENCED } : {}),
    stopGraceMs: 10_000,
    stop: async (stopServer) => {
      log.info('part_stopped')
      if (mode === 'stop-fails') throw fail('unavailable', 'the part cannot be stopped')
      await stopServer()
      log.info('server_stopped')
    },
  }
}
