/** Owns one object on its way to S3 in parts: begun, sent a few parts at a time, and completed or aborted. */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import type { CompletedPart } from '@aws-sdk/client-s3'
import { present } from '@understory/base'
import type { CallOptions } from '../store.ts'
import type { S3Calls } from './calls.ts'

/** S3 takes at most 10,000 parts: 320 GiB. */
const PART_BYTES = 32 * 1024 * 1024
const PARTS_AT_ONCE_COUNT = 4

export interface ObjectPlace {
  readonly Bucket: string
  readonly Key: string
}

export class MultipartUpload {
  readonly #calls: S3Calls
  readonly #place: ObjectPlace
  readonly #what: string
  readonly #options: CallOptions

  /** `what` completes "could not …" in errors. */
  constructor(calls: S3Calls, place: ObjectPlace, what: string, options: CallOptions) {
    this.#calls = calls
    this.#place = place
    this.#what = what
    this.#options = options
  }

  /** Returns the etag. Each call has the options' deadline. Nothing stays where it fails, except after an outage. */
  async run(bytes: Uint8Array): Promise<string> {
    const { UploadId } = await this.#calls.call(this.#what, this.#options, (client, { abortSignal }) =>
      client.send(new CreateMultipartUploadCommand({ ...this.#place, ChecksumAlgorithm: 'CRC32' }), {
        abortSignal,
      }),
    )
    const uploadId = present(UploadId, 'UploadId of S3')
    try {
      return await this.#complete(uploadId, await this.#sendParts(uploadId, bytes))
    } catch (error) {
      // Best effort, the bucket's lifecycle rule takes what stays; the first error is the one that matters.
      await this.#abort(uploadId).catch(() => undefined)
      throw error
    }
  }

  async #sendParts(UploadId: string, bytes: Uint8Array): Promise<CompletedPart[]> {
    const partsCount = Math.ceil(bytes.length / PART_BYTES)
    const parts: CompletedPart[] = []
    let sentCount = 0
    const sendSome = async (): Promise<void> => {
      while (sentCount < partsCount) {
        const index = sentCount++
        const Body = bytes.subarray(index * PART_BYTES, (index + 1) * PART_BYTES)
        const place = { ...this.#place, UploadId, PartNumber: index + 1 }
        const part = { ...place, Body, ChecksumAlgorithm: 'CRC32' as const }
        const { ETag, ChecksumCRC32 } = await this.#calls.call(
          this.#what,
          this.#options,
          (client, { abortSignal }) => client.send(new UploadPartCommand(part), { abortSignal }),
        )
        parts[index] = { PartNumber: index + 1, ETag, ChecksumCRC32 }
      }
    }
    await Promise.all(Array.from({ length: Math.min(PARTS_AT_ONCE_COUNT, partsCount) }, sendSome))
    return parts
  }

  async #complete(UploadId: string, Parts: CompletedPart[]): Promise<string> {
    const upload = { ...this.#place, UploadId }
    const command = new CompleteMultipartUploadCommand({ ...upload, MultipartUpload: { Parts } })
    const { ETag } = await this.#calls.call(this.#what, this.#options, (client, { abortSignal }) =>
      client.send(command, { abortSignal }),
    )
    return present(ETag, 'ETag of S3')
  }

  async #abort(UploadId: string): Promise<void> {
    await this.#calls.once((client) =>
      client.send(new AbortMultipartUploadCommand({ ...this.#place, UploadId })),
    )
  }
}
