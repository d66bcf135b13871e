/**
 * Objects in S3 or what speaks its protocol (MinIO, Ceph, S3Proxy). How often a call is tried is in calls.ts. Every
 * body carries a checksum that the store verifies, and what comes back is verified against the store's.
 */
import {
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
} from '@aws-sdk/client-s3'
import type { GetObjectCommandOutput } from '@aws-sdk/client-s3'
import { UnderstoryError, present } from '@understory/base'
import { checkConditionalSize, checkKey, checkPrefix, checkRange, notFound, outOfRange } from '../store.ts'
import type {
  CallOptions,
  ConditionalPut,
  ListedObject,
  ObjectHead,
  ObjectStore,
  StoredObject,
} from '../store.ts'
import { S3Calls } from './calls.ts'
import type { S3StoreOptions } from './calls.ts'
import { nameOf, statusOf } from './errors.ts'
import { MultipartUpload } from './multipart-upload.ts'
import type { ObjectPlace } from './multipart-upload.ts'

const MULTIPART_ABOVE_BYTES = 64 * 1024 * 1024
/** S3's own limit. */
const DELETES_PER_REQUEST = 1000

export function s3ObjectStore(options: S3StoreOptions): ObjectStore {
  return new S3Store(options)
}

class S3Store implements ObjectStore {
  readonly description: string
  readonly #calls: S3Calls
  readonly #bucket: string
  readonly #root: string

  constructor(options: S3StoreOptions) {
    const { bucket, prefix, endpoint } = options
    const at = endpoint === undefined ? '' : ` at ${endpoint}`
    this.description = `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}${at}`
    this.#bucket = bucket
    this.#root = prefix === '' ? '' : `${prefix}/`
    this.#calls = new S3Calls(options, this.description)
  }

  async get(key: string, options?: CallOptions): Promise<StoredObject> {
    const found = await this.#fetch(key, undefined, options)
    return { bytes: found.bytes, etag: present(found.output.ETag, 'ETag of S3') }
  }

  async getRange(
    key: string,
    startOffset: number,
    endOffset: number,
    options?: CallOptions,
  ): Promise<Uint8Array<ArrayBuffer>> {
    checkRange(key, startOffset, endOffset)
    if (startOffset === endOffset) {
      // HTTP has no empty range.
      const head = await this.head(key, options)
      if (head === undefined) throw notFound(key, this.description)
      if (endOffset > head.sizeBytes) throw outOfRange(key, startOffset, endOffset)
      return new Uint8Array(0)
    }
    const { bytes } = await this.#fetch(key, [startOffset, endOffset], options)
    return bytes
  }

  async put(key: string, bytes: Uint8Array, options?: CallOptions): Promise<string> {
    const place = this.#place(key)
    if (bytes.length > MULTIPART_ABOVE_BYTES)
      return new MultipartUpload(this.#calls, place, `write object "${key}"`, options ?? {}).run(bytes)
    return this.#calls.call(`write object "${key}"`, options, async (client, { abortSignal }) => {
      const output = await client.send(new PutObjectCommand({ ...place, Body: bytes }), { abortSignal })
      return present(output.ETag, 'ETag of S3')
    })
  }

  putIfAbsent(key: string, bytes: Uint8Array, options?: CallOptions): Promise<ConditionalPut> {
    return this.#putIf(key, bytes, { IfNoneMatch: '*' }, options)
  }

  putIfMatch(key: string, etag: string, bytes: Uint8Array, options?: CallOptions): Promise<ConditionalPut> {
    return this.#putIf(key, bytes, { IfMatch: etag }, options)
  }

  async head(key: string, options?: CallOptions): Promise<ObjectHead | undefined> {
    const place = this.#place(key)
    return this.#calls.call(`look at object "${key}"`, options, async (client, { abortSignal }) => {
      try {
        const {
          ContentLength = 0,
          LastModified,
          ETag,
        } = await client.send(new HeadObjectCommand(place), { abortSignal })
        const etag = present(ETag, 'ETag of S3')
        return { key, sizeBytes: ContentLength, modifiedMs: LastModified?.getTime() ?? 0, etag }
      } catch (error) {
        // HEAD has no body that could distinguish a missing bucket from a missing object: the first write or list does.
        if (statusOf(error) === 404) return undefined
        throw error
      }
    })
  }

  async *list(prefix: string, options?: CallOptions): AsyncGenerator<ListedObject, void, void> {
    const place = { Bucket: this.#bucket, Prefix: this.#root + checkPrefix(prefix) }
    let after: string | undefined
    do {
      const page = await this.#calls.call(`list objects "${prefix}"`, options, (client, { abortSignal }) =>
        client.send(new ListObjectsV2Command({ ...place, ContinuationToken: after }), { abortSignal }),
      )
      for (const { Key, Size = 0, LastModified } of page.Contents ?? []) {
        const key = present(Key, 'Key of S3').slice(this.#root.length)
        yield { key, sizeBytes: Size, modifiedMs: LastModified?.getTime() ?? 0 }
      }
      after = page.IsTruncated === true ? page.NextContinuationToken : undefined
    } while (after !== undefined)
  }

  async delete(keys: readonly string[], options?: CallOptions): Promise<void> {
    const places = keys.map((key) => ({ Key: this.#place(key).Key }))
    for (let done = 0; done < places.length; done += DELETES_PER_REQUEST) {
      const Objects = places.slice(done, done + DELETES_PER_REQUEST)
      await this.#calls.call(`delete ${Objects.length} objects`, options, async (client, { abortSignal }) => {
        const { Errors = [] } = await client.send(
          new DeleteObjectsCommand({ Bucket: this.#bucket, Delete: { Objects, Quiet: true } }),
          { abortSignal },
        )
        const failed = Errors.find(({ Code }) => Code !== 'NoSuchKey')
        if (failed !== undefined) {
          const { Code: name = 'unknown', Key, Message } = failed
          throw Object.assign(new Error(`${Key}: ${Message}`), { name })
        }
      })
    }
  }

  async close(): Promise<void> {
    this.#calls.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #place(key: string): ObjectPlace {
    return { Bucket: this.#bucket, Key: this.#root + checkKey(key) }
  }

  async #fetch(
    key: string,
    range: readonly [startOffset: number, endOffset: number] | undefined,
    options?: CallOptions,
  ): Promise<{ output: GetObjectCommandOutput; bytes: Uint8Array<ArrayBuffer> }> {
    const place = this.#place(key)
    const wanted = range === undefined ? {} : { Range: `bytes=${range[0]}-${range[1] - 1}` }
    return this.#calls.call(`read object "${key}"`, options, async (client, { abortSignal }) => {
      try {
        const output = await client.send(new GetObjectCommand({ ...place, ...wanted }), { abortSignal })
        const bytes = (await present(
          output.Body,
          'body of S3',
        ).transformToByteArray()) as Uint8Array<ArrayBuffer>
        if (range !== undefined && bytes.length !== range[1] - range[0]) throw outOfRange(key, ...range)
        return { output, bytes }
      } catch (error) {
        if (nameOf(error) === 'NoSuchKey') throw notFound(key, this.description)
        if (range !== undefined && statusOf(error) === 416) throw outOfRange(key, ...range)
        throw error
      }
    })
  }

  /**
   * A conflict on the first try is a conflict. On a later one it may be our own earlier write, whose answer was lost:
   * then the object holds our bytes.
   */
  async #putIf(
    key: string,
    bytes: Uint8Array,
    condition: { IfMatch?: string; IfNoneMatch?: string },
    options?: CallOptions,
  ): Promise<ConditionalPut> {
    const place = this.#place(key)
    checkConditionalSize(key, bytes)
    return this.#calls.call(
      `write object "${key}"`,
      options,
      async (client, { abortSignal, number }): Promise<ConditionalPut> => {
        try {
          const command = new PutObjectCommand({ ...place, ...condition, Body: bytes })
          const { ETag } = await client.send(command, { abortSignal })
          return { kind: 'stored', etag: present(ETag, 'ETag of S3') }
        } catch (error) {
          const isConflict =
            statusOf(error) === 412 ||
            nameOf(error) === 'PreconditionFailed' ||
            (condition.IfMatch !== undefined && nameOf(error) === 'NoSuchKey')
          if (!isConflict) throw error
          return number === 1 ? { kind: 'conflict' } : this.#recognize(key, bytes, abortSignal)
        }
      },
    )
  }

  async #recognize(key: string, bytes: Uint8Array, signal: AbortSignal): Promise<ConditionalPut> {
    try {
      const found = await this.get(key, { signal })
      const isOurs = Buffer.compare(found.bytes, bytes) === 0
      return isOurs ? { kind: 'stored', etag: found.etag } : { kind: 'conflict' }
    } catch (error) {
      if (error instanceof UnderstoryError && error.code === 'not_found') return { kind: 'conflict' }
      throw error
    }
  }
}
