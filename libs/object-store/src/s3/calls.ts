/**
 * Owns the client of an S3 store, and how often and how long a call to it is tried. Tries are counted here and not in the
 * SDK, because a conditional write whose answer was lost needs a look at the object before the next try means anything.
 */
import { S3Client } from '@aws-sdk/client-s3'
import { UnderstoryError, fail } from '@understory/base'
import { type Clock, type Rng, retry, withDeadline } from '@understory/env'
import type { CallOptions } from '../store.ts'
import { s3Error } from './errors.ts'

const DEADLINE_DEFAULT_MS = 60_000
const ATTEMPTS_MAX = 6
const CONNECT_MS_MAX = 3_000
/** Without a byte for this long, an attempt has failed. */
const IDLE_MS_MAX = 15_000
const SOCKETS_COUNT_MAX = 64

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

export class S3Calls {
  readonly #client: S3Client
  readonly #where: string
  readonly #seams: { readonly clock: Clock; readonly rng: Rng }

  /** `where` describes the store in errors. */
  constructor(options: S3StoreOptions, where: string) {
    const { clock, rng } = options
    this.#client = s3Client(options)
    this.#where = where
    this.#seams = { clock, rng }
  }

  /** `what` completes "could not …". The deadline is over all tries. Errors: those of `s3Error`; `timeout`. */
  async call<T>(
    what: string,
    options: CallOptions | undefined,
    work: (client: S3Client, attempt: Attempt) => Promise<T>,
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
              return await work(this.#client, { abortSignal, number })
            } catch (error) {
              trouble = error instanceof UnderstoryError ? error : s3Error(error, what, this.#where)
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

  /** One try, for a call that is not waited for. Errors: the client's own. */
  once<T>(work: (client: S3Client) => Promise<T>): Promise<T> {
    return work(this.#client)
  }

  close(): void {
    this.#client.destroy()
  }
}
