// MinIO and S3Proxy start, take buckets, and come back after a kill with what they had.
import { describe, expect, test } from 'vitest'
import { minioMissing, startMinio } from './minio.ts'
import type { S3Server } from './s3-server.ts'
import { s3ProxyMissing, startS3Proxy } from './s3proxy.ts'

const servers: [string, string | undefined, () => Promise<S3Server>][] = [
  ['MinIO', await minioMissing(), startMinio],
  ['S3Proxy', await s3ProxyMissing(), startS3Proxy],
]
for (const [name, missing, start] of servers) {
  describe.skipIf(missing !== undefined)(missing === undefined ? name : `${name}: ${missing}`, () => {
    test('starts, makes a bucket, dies and comes back', async () => {
      await using server = await start()
      await server.createBucket('first')
      expect(server.url('first', 'a/b')).toContain('s3://first/a/b?endpoint=http')
      await server.kill()
      await expect(fetch(server.endpoint)).rejects.toThrow('fetch failed')
      await server.start()
      expect([200, 403]).toContain((await fetch(`${server.endpoint}/first`)).status)
      await server.createBucket('second')
    })
  })
}
