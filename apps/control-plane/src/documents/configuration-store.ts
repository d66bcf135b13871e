/**
 * The configuration files of computes, which are not in WAL: `control/configurations/<timeline>.json`, one
 * document a timeline, replaced only by a newer version. A compute on another disk begins with it.
 */
import { DOCUMENT_READER, describeError, fail } from '@understory/base'
import { getIfPresent } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { configurationKey } from '@understory/protocol'
import type { Configuration, ConfigurationVersion } from '@understory/rpc'
import { z } from 'zod'

const ATTEMPTS_MAX = 5

const document = z.object({
  version: z.literal(1),
  /** As in a tenant's document. */
  minReader: z.number().int().max(DOCUMENT_READER).default(1),
  /** uint64 as text: term of the compute, and a number that grows with every change. */
  term: z.string(),
  number: z.string(),
  /** base64 by name of the file. */
  files: z.record(z.string(), z.string()),
  soundFiles: z.record(z.string(), z.string()).default({}),
})

/** Whether `a` replaces `b`: by term first. */
export function isNewer(a: ConfigurationVersion | undefined, b: ConfigurationVersion | undefined): boolean {
  if (a === undefined) return false
  return b === undefined || a.term > b.term || (a.term === b.term && a.number > b.number)
}

interface StoredConfiguration {
  readonly configuration: Configuration
  readonly etag: string
  /** As it is stored, with the fields of a newer control plane. */
  readonly json: object
}

export class ConfigurationStore {
  readonly #store: ObjectStore

  constructor(store: ObjectStore) {
    this.#store = store
  }

  /** Undefined where nothing was published. Errors: `bad_file`. */
  async read(timelineId: string): Promise<Configuration | undefined> {
    return (await this.#read(timelineId))?.configuration
  }

  /** Stores it unless something newer is there; returns what is there then. */
  async publish(timelineId: string, configuration: Configuration): Promise<Configuration> {
    const key = configurationKey(timelineId)
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const found = await this.#read(timelineId)
      if (found !== undefined && !isNewer(configuration.version, found.configuration.version))
        return found.configuration
      const bytes = encode(configuration, found?.json)
      const result =
        found === undefined
          ? await this.#store.putIfAbsent(key, bytes)
          : await this.#store.putIfMatch(key, found.etag, bytes)
      if (result.kind === 'stored') return configuration
    }
    throw fail('conflict', `configuration of timeline ${timelineId} is being written by another`)
  }

  async remove(timelineId: string): Promise<void> {
    await this.#store.delete([configurationKey(timelineId)])
  }

  async #read(timelineId: string): Promise<StoredConfiguration | undefined> {
    const key = configurationKey(timelineId)
    const found = await getIfPresent(this.#store, key)
    if (found === undefined) return undefined
    try {
      const json = JSON.parse(Buffer.from(found.bytes).toString()) as object
      const stored = document.parse(json)
      const version = { term: BigInt(stored.term), number: BigInt(stored.number) }
      const [files, soundFiles] = [fromBase64(stored.files), fromBase64(stored.soundFiles)]
      return { configuration: { version, files, soundFiles }, etag: found.etag, json }
    } catch (cause) {
      throw fail('bad_file', `configuration "${key}" is not what this version writes`, {
        detail: describeError(cause),
        hint: 'Restore the object from a backup, or remove it.',
        cause,
      })
    }
  }
}

const fromBase64 = (files: Readonly<Record<string, string>>): Record<string, Buffer> =>
  Object.fromEntries(Object.entries(files).map(([name, text]) => [name, Buffer.from(text, 'base64')]))
const toBase64 = (files: Readonly<Record<string, Buffer>>): Record<string, string> =>
  Object.fromEntries(Object.entries(files).map(([name, bytes]) => [name, bytes.toString('base64')]))

function encode({ version, files, soundFiles }: Configuration, before: object = {}): Uint8Array {
  const value = {
    ...before,
    version: 1,
    term: String(version?.term ?? 0n),
    number: String(version?.number ?? 0n),
    files: toBase64(files),
    soundFiles: toBase64(soundFiles),
  }
  return Buffer.from(`${JSON.stringify(value, undefined, 1)}\n`)
}
