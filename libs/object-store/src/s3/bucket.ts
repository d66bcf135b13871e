/** The bucket of a store that is this installation's own: made where it is not there. */
import { CreateBucketCommand } from '@aws-sdk/client-s3'
import { retry } from '@understory/env'
import { nameOf, s3Error } from './errors.ts'
import { s3Client } from './calls.ts'
import type { S3StoreOptions } from './calls.ts'

/** Two minutes and a half: a server that is started at the same time may take a while. */
const ATTEMPTS_MAX = 60
const PAUSE_MS_MAX = 3_000
const THERE_ALREADY = ['BucketAlreadyOwnedByYou', 'BucketAlreadyExists']

export async function ensureBucket(options: S3StoreOptions): Promise<void> {
  const client = s3Client(options)
  try {
    await retry(options, { attemptsMax: ATTEMPTS_MAX, pauseMsMax: PAUSE_MS_MAX }, async () => {
      try {
        await client.send(new CreateBucketCommand({ Bucket: options.bucket }))
      } catch (error) {
        if (!THERE_ALREADY.includes(nameOf(error)))
          throw s3Error(error, `make bucket "${options.bucket}"`, options.endpoint ?? 'AWS')
      }
    })
  } finally {
    client.destroy()
  }
}
