/**
 * Objects in S3 or what speaks its protocol (MinIO, Ceph, S3Proxy). Tries are counted here and not in the SDK, because
 * a conditional write whose answer was lost needs a look at the object before the next try means anything. Every body
 * carries a checksum that the store verifies, and what comes back is verified against the store's.
 */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import type { CompletedPart, GetObjectCommandOutput } from '@aws-sdk/client-s3'
import { UnderstoryError, present, fail } from '@understory/base'
import { type Clock, type Rng, retry, withDeadline } from '@understory/env'
import { checkConditionalSize, checkKey, checkPrefix, checkRange, notFound, outOfRange } from '../store.ts'
import type {
  CallOptions,
  ConditionalPut,
  ListedObject,
  ObjectHead,
  ObjectStore,
  StoredObject,
} from '../store.ts'
import { nameOf, s3Error, statusOf } from './errors.ts'

const DEADLINE_DEFAULT_MS = 60_000
const ATTEMPTS_MAX = 6
const CONNECT_MS_MAX = 3_000
/** Without a byte for this long, an attempt has failed. */
const IDLE_MS_MAX = 15_000
const SOCKETS_COUNT_MAX = 64
const MULTIPART_ABOVE_BYTES = 64 * 1024 * 1024
/** S3 takes at most 10,000 parts: 320 GiB. */
const PART_BYTES = 32 * 1024 * 1024
const PARTS_AT_ONCE_COUNT = 4
/** S3's own limit. */
const DELETES_PER_REQUEST = 1000

export interface S3Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
}

export interface S3StoreOptions {
  readonly bucket: string
  /** Goes before every key, without slashes at its ends; empty for none. */
  readonly prefix: string
  /** Such as `http://127.0.0.1:9000`; addressed in path style then. Undefined is AWS. */
  readonly endpoint?: string | undefined
  readonly region: string
  /** Undefined leaves it to the SDK's chain: profiles, web identity, instance roles. */
  readonly credentials?: S3Credentials | undefined
  readonly clock: Clock
  readonly rng: Rng
}

export function s3ObjectStore(options: S3StoreOptions): ObjectStore {
  return new S3Store(options)
}

export const s3Client = ({
  region,
  endpoint,
  credentials,
}: Pick<S3StoreOptions, 'region' | 'endpoint' | 'credentials'>): S3Client =>
  new S3Client({
    region,
    ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
    ...(credentials === undefined ? {} : { credentials }),
    maxAttempts: 1,
    requestChecksumCalculation: 'WHEN_SUPPORTED',
    responseChecksumValidation: 'WHEN_SUPPORTED',
    requestHandler: {
      connectionTimeout: CONNECT_MS_MAX,
      socketTimeout: IDLE_MS_MAX,
      httpAgent: { maxSockets: SOCKETS_COUNT_MAX },
      httpsAgent: { maxSockets: SOCKETS_COUNT_MAX },
    },
  })

interface Attempt {
  readonly abortSignal: AbortSignal
  /** From 1. */
  readonly number: number
}

class S3Store implements ObjectStore {
  readonly description: string
  readonly #client: S3Client
  readonly #bucket: string
  readonly #root: string
  readonly #seams: { readonly clock: Clock; readonly rng: Rng }

  constructor({ bucket, prefix, endpoint, region, credentials, clock, rng }: S3StoreOptions) {
    const at = endpoint === undefined ? '' : ` at ${endpoint}`
    this.description = `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}${at}`
    this.#bucket = bucket
    this.#root = prefix === '' ? '' : `${prefix}/`
    this.#seams = { clock, rng }
    this.#client = s3Client({ region, endpoint, credentials })
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
    if (bytes.length > MULTIPART_ABOVE_BYTES) return this.#putParts(key, bytes, options)
    return this.#call(`write object "${key}"`, options, async ({ abortSignal }) => {
      const output = await this.#client.send(new PutObjectCommand({ ...place, Body: bytes }), { abortSignal })
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
    return this.#call(`look at object "${key}"`, options, async ({ abortSignal }) => {
      try {
        const {
          ContentLength = 0,
          LastModified,
          ETag,
        } = await this.#client.send(new HeadObjectCommand(place), { abortSignal })
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
      const page = await this.#call(`list objects "${prefix}"`, options, ({ abortSignal }) =>
        this.#client.send(new ListObjectsV2Command({ ...place, ContinuationToken: after }), { abortSignal }),
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
      await this.#call(`delete ${Objects.length} objects`, options, async ({ abortSignal }) => {
        const { Errors = [] } = await this.#client.send(
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
    this.#client.destroy()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #place(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#bucket, Key: this.#root + checkKey(key) }
  }

  /** The deadline is over all tries. */
  async #call<T>(
    what: string,
    options: CallOptions | undefined,
    work: (attempt: Attempt) => Promise<T>,
  ): Promise<T> {
    const { signal, deadlineMs = DEADLINE_DEFAULT_MS } = options ?? {}
    let trouble: unknown
    try {
      return await withDeadline(this.#seams.clock, deadlineMs, what, signal, (abortSignal) =>
        retry(
          this.#seams,
          { attemptsMax: ATTEMPTS_MAX, baseMs: 100, signal: abortSignal },
          async (number) => {
            try {
              return await work({ abortSignal, number })
            } catch (error) {
              trouble = error instanceof UnderstoryError ? error : s3Error(error, what, this.description)
              throw trouble
            }
          },
        ),
      )
    } catch (error) {
      // What the store said last explains a time-out better than the clock does.
      if (!(error instanceof UnderstoryError) || error.code !== 'timeout' || trouble === undefined)
        throw error
      throw fail('timeout', error.message, { detail: (trouble as Error).message, cause: trouble })
    }
  }

  async #fetch(
    key: string,
    range: readonly [startOffset: number, endOffset: number] | undefined,
    options?: CallOptions,
  ): Promise<{ output: GetObjectCommandOutput; bytes: Uint8Array<ArrayBuffer> }> {
    const place = this.#place(key)
    const wanted = range === undefined ? {} : { Range: `bytes=${range[0]}-${range[1] - 1}` }
    return this.#call(`read object "${key}"`, options, async ({ abortSignal }) => {
      try {
        const output = await this.#client.send(new GetObjectCommand({ ...place, ...wanted }), { abortSignal })
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
    return this.#call(
      `write object "${key}"`,
      options,
      async ({ abortSignal, number }): Promise<ConditionalPut> => {
        try {
          const command = new PutObjectCommand({ ...place, ...condition, Body: bytes })
          const { ETag } = await this.#client.send(command, { abortSignal })
          return { kind: 'stored', etag: present(ETag, 'ETag of S3') }
        } catch (error) {
          const isConflict =
            statusOf(error) === 412 ||
            nameOf(error) === 'PreconditionFailed' ||
            (condition.IfMatch !== undefined && nameOf(error) === 'NoSuchKey')
          if (!isConflict) throw error
          return number === 1 ? { kind: 'conflict' } : this.#recognise(key, bytes, abortSignal)
        }
      },
    )
  }

  async #recognise(key: string, bytes: Uint8Array, signal: AbortSignal): Promise<ConditionalPut> {
    try {
      const found = await this.get(key, { signal })
      const isOurs = Buffer.compare(found.bytes, bytes) === 0
      return isOurs ? { kind: 'stored', etag: found.etag } : { kind: 'conflict' }
    } catch (error) {
      if (error instanceof UnderstoryError && error.code === 'not_found') return { kind: 'conflict' }
      throw error
    }
  }

  async #putParts(key: string, bytes: Uint8Array, options: CallOptions = {}): Promise<string> {
    const place = this.#place(key)
    const what = `write object "${key}"`
    const { UploadId } = await this.#call(what, options, ({ abortSignal }) =>
      this.#client.send(new CreateMultipartUploadCommand({ ...place, ChecksumAlgorithm: 'CRC32' }), {
        abortSignal,
      }),
    )
    const upload = { ...place, UploadId: present(UploadId, 'UploadId of S3') }
    try {
      const parts = await this.#sendParts(upload, bytes, what, options)
      const command = new CompleteMultipartUploadCommand({ ...upload, MultipartUpload: { Parts: parts } })
      const { ETag } = await this.#call(what, options, ({ abortSignal }) =>
        this.#client.send(command, { abortSignal }),
      )
      return present(ETag, 'ETag of S3')
    } catch (error) {
      // Best effort, the bucket's lifecycle rule takes what stays; the first error is the one that matters.
      await this.#client.send(new AbortMultipartUploadCommand(upload)).catch(() => undefined)
      throw error
    }
  }

  async #sendParts(
    upload: { Bucket: string; Key: string; UploadId: string },
    bytes: Uint8Array,
    what: string,
    options: CallOptions,
  ): Promise<CompletedPart[]> {
    const partsCount = Math.ceil(bytes.length / PART_BYTES)
    const parts: CompletedPart[] = []
    let sentCount = 0
    const sendSome = async (): Promise<void> => {
      while (sentCount < partsCount) {
        const index = sentCount++
        const Body = bytes.subarray(index * PART_BYTES, (index + 1) * PART_BYTES)
        const part = { ...upload, PartNumber: index + 1, Body, ChecksumAlgorithm: 'CRC32' as const }
        const { ETag, ChecksumCRC32 } = await this.#call(what, options, ({ abortSignal }) =>
          this.#client.send(new UploadPartCommand(part), { abortSignal }),
        )
        parts[index] = { PartNumber: index + 1, ETag, ChecksumCRC32 }
      }
    }
    await Promise.all(Array.from({ length: Math.min(PARTS_AT_ONCE_COUNT, partsCount) }, sendSome))
    return parts
  }
}
