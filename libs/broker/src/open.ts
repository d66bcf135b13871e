/** From a URL to a broker. */
import { fail } from '@understory/base'
import type { ClientContext } from '@understory/rpc'
import type { Broker } from './broker.ts'
import { EmbeddedClient } from './embedded-client.ts'
import { BrokerLink, type BrokerSeams } from './link.ts'
import { RedisTransport } from './redis.ts'

const PREFIX_DEFAULT = 'understory'

/**
 * `redis://[user:password@]host:port[/database][?prefix=NAME]` (`rediss://` with TLS), or `grpc://host:port` for the
 * one that a control plane embeds. Connects when it is first needed. Installations that share a Redis need a prefix
 * each: what is announced under the same one belongs together.
 */
export function openBroker(url: string, seams: BrokerSeams & { readonly rpc: ClientContext }): Broker {
  const parsed = URL.parse(url)
  if (parsed !== null && parsed.hostname !== '') {
    if (parsed.protocol === 'redis:' || parsed.protocol === 'rediss:') {
      const prefix = parsed.searchParams.get('prefix') ?? PREFIX_DEFAULT
      // A `*` would be a pattern where keys are looked for.
      if (!/^[\w.:-]+$/.test(prefix)) {
        throw fail('bad_argument', `malformed prefix "${prefix}" in the broker URL`, {
          hint: 'Use letters, digits, ".", ":", "_" and "-".',
        })
      }
      const server = new URL(parsed)
      server.search = ''
      return new BrokerLink(new RedisTransport(server, prefix, seams.clock), seams)
    }
    const isBare = parsed.username === '' && parsed.pathname.length <= 1 && parsed.search === ''
    if (parsed.protocol === 'grpc:' && parsed.port !== '' && isBare) {
      return new BrokerLink(new EmbeddedClient(seams.rpc, parsed.host), seams)
    }
  }
  // A malformed address may still contain a password.
  throw fail('bad_argument', 'could not understand the broker URL', {
    hint: 'Give "redis://host:port" or "grpc://host:port"; in a password write "/" as %2F and "@" as %40.',
  })
}
