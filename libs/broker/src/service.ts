/** Serves a `memoryBroker` to other processes. */
import { BrokerServiceService, service } from '@understory/rpc'
import { serverStream, unary } from '@understory/rpc'
import type {
  BrokerServiceServer,
  ListAnnouncementsResponse,
  RpcService,
  WatchAnnouncementsResponse,
} from '@understory/rpc'
import { checkKey, checkPrefix, checkText, checkTtl } from './broker.ts'
import { ChangeFeed } from './change-feed.ts'
import type { MemoryBroker } from './memory.ts'

export function brokerService({ transport }: MemoryBroker): RpcService {
  return service<BrokerServiceServer>(BrokerServiceService, {
    announce: unary(async ({ key, value, ttlMs }) => {
      const text = value.toString()
      checkKey(key)
      checkTtl(ttlMs)
      checkText(key, text)
      await transport.set(key, text, ttlMs)
      return {}
    }),
    withdraw: unary(async ({ key }) => {
      checkKey(key)
      await transport.remove(key)
      return {}
    }),
    listAnnouncements: unary(async ({ prefix }): Promise<ListAnnouncementsResponse> => {
      checkPrefix(prefix)
      const entries = await transport.list(prefix)
      return { announcements: [...entries].map(([key, text]) => ({ key, value: Buffer.from(text) })) }
    }),
    watchAnnouncements: serverStream(({ prefix }, { signal }) => watch(transport, prefix, signal)),
  })
}

async function* watch(
  transport: MemoryBroker['transport'],
  prefix: string,
  signal: AbortSignal,
): AsyncGenerator<WatchAnnouncementsResponse, void, void> {
  checkPrefix(prefix)
  const left = new AbortController()
  const ended = AbortSignal.any([signal, left.signal])
  const feed = new ChangeFeed()
  const following = transport.follow(prefix, ended, feed)
  try {
    for await (const item of feed.read(ended)) {
      if (item.kind === 'complete') yield { announcement: undefined, gone: false }
      else if (item.kind === 'gone')
        yield { announcement: { key: item.key, value: Buffer.alloc(0) }, gone: true }
      else yield { announcement: { key: item.key, value: Buffer.from(item.text) }, gone: false }
    }
  } finally {
    left.abort()
    await following
  }
}
