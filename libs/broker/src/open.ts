/** From a URL to a broker. */
import { refuse } from '@understory/base'
import type { Broker } from './broker.ts'
import { EmbeddedClient } from './embedded-client.ts'
import { BrokerLink, type BrokerSeams } from './link.ts'
import { RedisTransport } from './redis.ts'

/**
 * `redis://[user:password@]host:port[/database]` (`rediss://` with TLS), or `grpc://host:port` for the one that a control
 * plane embeds. Connects when it is first needed.
 */
export function openBroker(url: string, seams: BrokerSeams): Broker {
  const parsed = URL.parse(url)
  if (parsed !== null && parsed.hostname !== '') {
    if (parsed.protocol === 'redis:' || parsed.protocol === 'rediss:') {
      return new BrokerLink(new RedisTransport(parsed, seams.clock), seams)
    }
    const isBare = parsed.username === '' && parsed.pathname.length <= 1 && parsed.search === ''
    if (parsed.protocol === 'grpc:' && parsed.port !== '' && isBare) {
      return new BrokerLink(new EmbeddedClient(parsed.host), seams)
    }
  }
  // What cannot be understood may still contain a password.
  throw refuse('bad_argument', 'could not understand the broker URL', {
    hint: 'Give "redis://host:port" or "grpc://host:port".',
  })
}
