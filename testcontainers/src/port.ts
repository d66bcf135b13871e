/**
 * A TCP port of 127.0.0.1 that nothing listened on just now. The process that binds it must be ready to lose the race.
 */
import { once } from 'node:events'
import { createServer } from 'node:net'
import { assert } from '@understory/base'

export async function freePort(): Promise<number> {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  assert(address !== null && typeof address === 'object', () => 'server listens on no port')
  server.close()
  await once(server, 'close')
  return address.port
}
