/**
 * The configuration files of PGDATA, which are not in WAL: kept beside it as one document, `configuration.json`, that
 * outlives PGDATA, and published from there by the control plane, so that it outlives this disk too.
 *
 * Versions are ordered by term first: a compute that was overtaken never replaces what its successor has.
 */
import { mkdir, readFile } from 'node:fs/promises'
import { relative } from 'node:path'
import { Mailbox } from '@understory/actor'
import { describeError, isErrorCode, fail } from '@understory/base'
import { readWithin, realDisk } from '@understory/env'
import type { Configuration } from '@understory/rpc'
import { z } from 'zod'
import { areAPair } from './certificate.ts'
import type { ComputeFiles } from './layout.ts'

export const CONFIGURATION_FILES = [
  'postgresql.conf',
  'postgresql.auto.conf',
  'pg_hba.conf',
  'pg_ident.conf',
  // Where Postgres looks by default (ssl_cert_file, ssl_key_file).
  'server.crt',
  'server.key',
] as const

/** Larger ones are not kept, nor read, each and together: the document travels in one message. */
const CONFIGURATION_BYTES_MAX = 1024 * 1024

/** A file of PGDATA, which its superuser may have replaced by anything; undefined where it is missing. */
export async function readConfigurationFile(
  { pgdata, shared, keyCopy }: ComputeFiles,
  name: (typeof CONFIGURATION_FILES)[number],
): Promise<Buffer | undefined> {
  // In a pod Postgres's user alone may read it, and hands a copy over (sidecar-runner.ts).
  if (name === 'server.key' && keyCopy !== undefined)
    return readWithin(shared, relative(shared, keyCopy), {
      bytesMax: CONFIGURATION_BYTES_MAX,
      anyOwner: true,
    })
  return readWithin(pgdata, name, { bytesMax: CONFIGURATION_BYTES_MAX })
}

const document = z.object({
  version: z.literal(1),
  /** Of the compute that had it. */
  term: z.number().int().nonnegative(),
  /** Grows with every change. */
  number: z.number().int().positive(),
  /** base64 by name. */
  files: z.record(z.string(), z.string()),
  /** The same, as of when a server last ran with all of it. */
  soundFiles: z.record(z.string(), z.string()).default({}),
})

export interface ConfigurationSnapshot {
  readonly term: number
  readonly number: number
  readonly files: ReadonlyMap<string, Buffer>
  /** As of when a server last ran with all of it: what is newer may keep one from starting. */
  readonly soundFiles: ReadonlyMap<string, Buffer>
}

/** Whether `a` replaces `b`. */
export function isNewer(
  a: Pick<ConfigurationSnapshot, 'term' | 'number'>,
  b: Pick<ConfigurationSnapshot, 'term' | 'number'> | undefined,
): boolean {
  return b === undefined || a.term > b.term || (a.term === b.term && a.number > b.number)
}

/** Undefined where nothing is kept. Errors: `bad_file`. */
export async function readKept({
  configuration: path,
}: ComputeFiles): Promise<ConfigurationSnapshot | undefined> {
  const text = await readIfThere(path)
  if (text === undefined) return undefined
  try {
    const { term, number, files, soundFiles } = document.parse(JSON.parse(text.toString()))
    return { term, number, files: fromBase64(files), soundFiles: fromBase64(soundFiles) }
  } catch (cause) {
    throw fail('bad_file', `file "${path}" is malformed`, {
      detail: describeError(cause),
      hint: 'Remove it: the control plane has what was published of it.',
      cause,
    })
  }
}

/** A damaged document counts as none: what was published takes its place. */
export async function readKeptIfWhole(files: ComputeFiles): Promise<ConfigurationSnapshot | undefined> {
  try {
    return await readKept(files)
  } catch (error) {
    if (isErrorCode(error, 'bad_file')) return undefined
    throw error
  }
}

async function writeKept(files: ComputeFiles, kept: ConfigurationSnapshot): Promise<void> {
  const { term, number } = kept
  const [whole, sound] = [toBase64(kept.files), toBase64(kept.soundFiles)]
  const text = `${JSON.stringify({ version: 1, term, number, files: whole, soundFiles: sound })}\n`
  await mkdir(files.own, { recursive: true, mode: 0o700 })
  await realDisk.durableReplace(files.configuration, Buffer.from(text))
}

/** Takes what was published where nothing, or something older, is kept here. */
export async function takePublished(files: ComputeFiles, published: Configuration): Promise<void> {
  for (const part of [published.files, published.soundFiles]) {
    const sizeBytes = Object.values(part).reduce((sum, { length }) => sum + length, 0)
    if (sizeBytes > CONFIGURATION_BYTES_MAX)
      throw fail('bad_argument', `published configuration of ${sizeBytes} bytes is too large`)
  }
  const taken = {
    term: Number(published.version?.term ?? 0n),
    number: Number(published.version?.number ?? 0n),
    files: new Map(Object.entries(published.files)),
    soundFiles: new Map(Object.entries(published.soundFiles)),
  }
  const here = await readKeptIfWhole(files)
  if (isNewer(taken, here)) await writeKept(files, taken)
}

export const toMessage = ({ term, number, files, soundFiles }: ConfigurationSnapshot): Configuration => ({
  version: { term: BigInt(term), number: BigInt(number) },
  files: Object.fromEntries(files),
  soundFiles: Object.fromEntries(soundFiles),
})

const toBase64 = (files: ReadonlyMap<string, Buffer>): Record<string, string> =>
  Object.fromEntries([...files].map(([name, bytes]) => [name, bytes.toString('base64')]))
const fromBase64 = (files: Readonly<Record<string, string>>): Map<string, Buffer> =>
  new Map(Object.entries(files).map(([name, text]) => [name, Buffer.from(text, 'base64')]))

function areSame(a: ReadonlyMap<string, Buffer>, b: ReadonlyMap<string, Buffer>): boolean {
  return a.size === b.size && [...a].every(([name, bytes]) => b.get(name)?.equals(bytes) === true)
}

/** Whether certificate and key fit together; `none` where one of them is not there. */
export function pairStateOf(files: ReadonlyMap<string, Buffer> | undefined): 'none' | 'whole' | 'broken' {
  const [certificate, key] = [files?.get('server.crt'), files?.get('server.key')]
  if (certificate === undefined || key === undefined) return 'none'
  return areAPair(certificate, key) ? 'whole' : 'broken'
}

/** Whether a start that failed may succeed with the sound files. */
export const hasOtherSoundFiles = (kept: ConfigurationSnapshot | undefined): boolean =>
  kept !== undefined && kept.soundFiles.size > 0 && !areSame(kept.files, kept.soundFiles)

/** Looks after the document of one compute: one change at a time. */
export class ConfigurationStore {
  readonly #files: ComputeFiles
  #kept: ConfigurationSnapshot | undefined
  readonly #mailbox = new Mailbox({ name: 'configuration' })

  constructor(files: ComputeFiles) {
    this.#files = files
  }

  /** As last kept or loaded. */
  get kept(): ConfigurationSnapshot | undefined {
    return this.#kept
  }

  load(): Promise<ConfigurationSnapshot | undefined> {
    return this.#mailbox.run(async () => (this.#kept = await readKept(this.#files)))
  }

  /**
   * Keeps what the files of PGDATA say now. A file that is missing there stays as it was. `isSound` is asked while
   * the newest is not known to be sound: whether the server that runs has taken all of it in.
   */
  keep(term: number, isSound: () => Promise<boolean>): Promise<void> {
    return this.#mailbox.run(() => this.#keep(term, isSound))
  }

  async #keep(term: number, isSound: () => Promise<boolean>): Promise<void> {
    const before = this.#kept
    const now = new Map<string, Buffer>()
    for (const name of CONFIGURATION_FILES) {
      const bytes = (await readConfigurationFile(this.#files, name)) ?? before?.files.get(name)
      if (bytes !== undefined) now.set(name, bytes)
    }
    if (now.size === 0) return
    const isChanged = before === undefined || !areSame(now, before.files)
    if (!isChanged && areSame(before.files, before.soundFiles)) return
    // A server that cannot be asked cannot agree; the change is kept all the same. A server that runs keeps the pair
    // that it has.
    const sound =
      pairStateOf(now) !== 'broken' && (await isSound().catch(() => false))
        ? now
        : (before?.soundFiles ?? new Map<string, Buffer>())
    if (!isChanged && areSame(sound, before.soundFiles)) return
    const sizeBytes = [...now.values()].reduce((sum, { length }) => sum + length, 0)
    if (sizeBytes > CONFIGURATION_BYTES_MAX) {
      throw fail('bad_file', `configuration files of ${sizeBytes} bytes are too large to be kept`, {
        hint: `Make them smaller than ${CONFIGURATION_BYTES_MAX} bytes together.`,
      })
    }
    const kept = {
      term: Math.max(term, before?.term ?? 0),
      number: (before?.number ?? 0) + 1,
      files: now,
      soundFiles: sound,
    }
    await writeKept(this.#files, kept)
    this.#kept = kept
  }
}

async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}
