/** A Redis of its own, without persistence: the program `redis-server` in PATH. */
import { fail } from '@understory/base'
import { findProgram } from './program.ts'
import { type Service, startService } from './service.ts'

export interface RedisServer extends Service {
  /** `redis://127.0.0.1:port`. */
  readonly url: string
}

/** Why there is no Redis to start, or undefined where there is. */
export async function redisMissing(): Promise<string | undefined> {
  return (await findProgram('redis-server')) === undefined ? 'redis-server is not in PATH' : undefined
}

export async function startRedis(): Promise<RedisServer> {
  const command = await findProgram('redis-server')
  if (command === undefined) {
    throw fail('precondition', 'redis-server is not in PATH', {
      hint: 'Install Redis (Debian: "redis-server").',
    })
  }
  const service = await startService({
    name: 'Redis',
    plan: async (port, folder) => ({
      command,
      args: [
        '--port',
        String(port),
        '--bind',
        '127.0.0.1',
        '--save',
        '',
        '--appendonly',
        'no',
        '--dir',
        folder,
      ],
      ready: /Ready to accept connections/,
    }),
  })
  return Object.assign(service, { url: `redis://127.0.0.1:${service.port}` })
}
