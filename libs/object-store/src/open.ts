/** From a URL to a store. */
import { fileURLToPath } from 'node:url'
import { isAbsolute } from 'node:path'
import { fail } from '@understory/base'
import type { Clock, Rng } from '@understory/env'
import { localObjectStore } from './local/store.ts'
import type { S3Credentials, S3StoreOptions } from './s3/calls.ts'
import { type ObjectStore, checkKey } from './store.ts'

export interface OpenOptions {
  readonly clock: Clock
  readonly rng: Rng
  /** Where AWS_ACCESS_KEY_ID and its like are looked up; what the program's main reads. */
  readonly environment?: Readonly<Record<string, string | undefined>>
}

const HINT =
  'Give "file:///folder", an absolute path, or "s3://bucket/prefix?endpoint=http://host:port&region=name".'

/**
 * `file:///folder` or an absolute path: a local folder. `s3://bucket/prefix?endpoint=…&region=…`: S3; without an
 * endpoint AWS, the region by default from AWS_REGION or us-east-1. With `create=bucket` a bucket that is not there is
 * made, and a server that is not there yet is waited for.
 */
export async function openObjectStore(url: string, options: OpenOptions): Promise<ObjectStore> {
  if (isAbsolute(url)) return localObjectStore(url, options)
  const parsed = URL.parse(url)
  switch (parsed?.protocol) {
    case 'file:':
      if (parsed.host !== '' || parsed.search !== '')
        throw badUrl(url, 'a file URL has neither host nor parameters')
      return localObjectStore(fileURLToPath(parsed), options)
    case 's3:':
      return openS3(parsed, options)
    default:
      throw badUrl(url, parsed === null ? 'it is not a URL' : `scheme "${parsed.protocol}" is unknown`)
  }
}

async function openS3(url: URL, { clock, rng, environment = {} }: OpenOptions): Promise<ObjectStore> {
  const text = `s3://${url.host}${url.pathname}`
  // Logs and process lists show URLs.
  if (url.username !== '' || url.password !== '') throw badUrl(text, 'it must not contain credentials')
  if (url.host === '') throw badUrl(text, 'it names no bucket')
  for (const name of url.searchParams.keys()) {
    if (!['endpoint', 'region', 'create'].includes(name)) throw badUrl(text, `parameter "${name}" is unknown`)
  }
  const create = url.searchParams.get('create')
  if (create !== null && create !== 'bucket') throw badUrl(text, `"create" cannot be "${create}"`)
  const prefix = decodeURIComponent(url.pathname).replace(/^\/|\/$/g, '')
  if (prefix !== '') checkKey(prefix)
  const endpoint = url.searchParams.get('endpoint') ?? undefined
  if (endpoint !== undefined && !/^https?:$/.test(URL.parse(endpoint)?.protocol ?? '')) {
    throw badUrl(text, `endpoint "${endpoint}" is not an http URL`)
  }
  const region = url.searchParams.get('region') ?? environment['AWS_REGION'] ?? 'us-east-1'
  const options: S3StoreOptions = {
    bucket: url.host,
    prefix,
    endpoint,
    region,
    credentials: credentialsFrom(environment),
    clock,
    rng,
  }
  // Its client takes 30 MB of memory: only where it is used.
  const { ensureBucket, s3ObjectStore } = await import('./s3/index.ts')
  if (create === 'bucket') await ensureBucket(options)
  return s3ObjectStore(options)
}

function credentialsFrom(
  environment: Readonly<Record<string, string | undefined>>,
): S3Credentials | undefined {
  const accessKeyId = environment['AWS_ACCESS_KEY_ID']
  const secretAccessKey = environment['AWS_SECRET_ACCESS_KEY']
  const sessionToken = environment['AWS_SESSION_TOKEN']
  if (accessKeyId === undefined || secretAccessKey === undefined) return undefined
  return { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) }
}

function badUrl(url: string, detail: string): Error {
  return fail('bad_argument', `could not use "${url}" as an object store`, { detail, hint: HINT })
}
