/** What MinIO and S3Proxy have in common: an endpoint, credentials, buckets. */
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3'
import type { Service } from './service.ts'

export interface S3Server extends Service {
  /** `http://127.0.0.1:port`. */
  readonly endpoint: string
  readonly region: string
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string }
  /** The credentials as environment variables. */
  readonly environment: { readonly AWS_ACCESS_KEY_ID: string; readonly AWS_SECRET_ACCESS_KEY: string }
  createBucket(bucket: string): Promise<void>
  /** `s3://bucket/prefix?endpoint=…&region=…` for `openObjectStore`. */
  url(bucket: string, prefix?: string): string
}

export const CREDENTIALS = { accessKeyId: 'understory', secretAccessKey: 'understory-secret' } as const
const REGION = 'us-east-1'

export function s3Server(service: Service): S3Server {
  const endpoint = `http://127.0.0.1:${service.port}`
  return Object.assign(service, {
    endpoint,
    region: REGION,
    credentials: CREDENTIALS,
    environment: {
      AWS_ACCESS_KEY_ID: CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: CREDENTIALS.secretAccessKey,
    },
    createBucket: async (bucket: string) => {
      const client = new S3Client({
        endpoint,
        region: REGION,
        forcePathStyle: true,
        credentials: CREDENTIALS,
        maxAttempts: 10,
      })
      try {
        await client.send(new CreateBucketCommand({ Bucket: bucket }))
      } finally {
        client.destroy()
      }
    },
    url: (bucket: string, prefix = '') => {
      const parameters = new URLSearchParams({ endpoint, region: REGION })
      return `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}?${parameters.toString()}`
    },
  })
}
