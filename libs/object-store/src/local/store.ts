/**
 * Objects as files below one folder, key = path. A write goes to a temporary file, is synced, and takes its place by
 * rename; then the folders are synced. Everything that changes a name happens under the folder's lock (lock.ts), in one
 * synchronous step, so that comparing and swapping are one; reads take no lock.
 *
 * The folder's own files begin with a dot, which no key does: `.lock`, and `.drafts/` for temporary files.
 */
import { mkdirSync, readFileSync, renameSync, rmdirSync, unlinkSync } from 'node:fs'
import { open, readdir, rm, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fail } from '@understory/base'
import { type Clock, type Rng, diskError, realDisk, throwIfCancelled } from '@understory/env'
import { contentEtag } from '../etag.ts'
import { checkConditionalSize, checkKey, checkPrefix, checkRange, notFound, outOfRange } from '../store.ts'
import type {
  CallOptions,
  ConditionalPut,
  ListedObject,
  ObjectHead,
  ObjectStore,
  StoredObject,
} from '../store.ts'
import { FolderLock } from './lock.ts'

const DRAFTS = '.drafts'
/** A draft this old was left by a crash: no write takes so long. */
const DRAFT_AGE_MS_MAX = 24 * 3600 * 1000
const DELETES_PER_LOCK = 64

export interface LocalStoreSeams {
  readonly clock: Clock
  readonly rng: Rng
}

/** Opens the store, making the folder if needed. */
export async function localObjectStore(folder: string, seams: LocalStoreSeams): Promise<ObjectStore> {
  const root = resolve(folder)
  await realDisk.makeDirectory(join(root, DRAFTS))
  await removeOldDrafts(join(root, DRAFTS), seams.clock.wallMs())
  return new LocalStore(root, new FolderLock(join(root, '.lock'), seams.clock, seams.rng), seams.rng)
}

async function removeOldDrafts(folder: string, wallMs: number): Promise<void> {
  for (const name of await readdir(folder)) {
    const found = await realDisk.stat(join(folder, name))
    if (found !== undefined && wallMs - found.modifiedMs > DRAFT_AGE_MS_MAX)
      await realDisk.remove(join(folder, name))
  }
}

class LocalStore implements ObjectStore {
  readonly description: string
  readonly #root: string
  readonly #lock: FolderLock
  readonly #rng: Rng
  #draftsCount = 0

  constructor(root: string, lock: FolderLock, rng: Rng) {
    this.description = root
    this.#root = root
    this.#lock = lock
    this.#rng = rng
  }

  get(key: string, options?: CallOptions): Promise<StoredObject> {
    return this.#attempt('read', key, options, async (path) => {
      const bytes = await realDisk.readFile(path)
      return { bytes, etag: contentEtag(bytes) }
    })
  }

  async getRange(
    key: string,
    startOffset: number,
    endOffset: number,
    options?: CallOptions,
  ): Promise<Uint8Array<ArrayBuffer>> {
    checkRange(key, startOffset, endOffset)
    return this.#attempt('read', key, options, async (path) => {
      await using file = await realDisk.open(path, 'read')
      const bytes = await file.read(startOffset, endOffset - startOffset)
      if (bytes.length !== endOffset - startOffset || startOffset > (await file.sizeBytes())) {
        throw outOfRange(key, startOffset, endOffset)
      }
      return bytes
    })
  }

  async put(key: string, bytes: Uint8Array, options?: CallOptions): Promise<string> {
    await this.#write(key, bytes, options, () => true)
    return contentEtag(bytes)
  }

  putIfAbsent(key: string, bytes: Uint8Array, options?: CallOptions): Promise<ConditionalPut> {
    return this.#putIf(key, bytes, options, (etag) => etag === undefined)
  }

  putIfMatch(key: string, etag: string, bytes: Uint8Array, options?: CallOptions): Promise<ConditionalPut> {
    return this.#putIf(key, bytes, options, (current) => current === etag)
  }

  head(key: string, options?: CallOptions): Promise<ObjectHead | undefined> {
    return this.#attempt('read', key, options, async (path) => {
      await using handle = await open(path, 'r').catch(undefinedIfAbsent)
      const found = await handle?.stat()
      if (handle === undefined || found?.isFile() !== true) return undefined
      return {
        key,
        sizeBytes: found.size,
        modifiedMs: found.mtimeMs,
        etag: contentEtag(await handle.readFile()),
      }
    })
  }

  async *list(prefix: string, options?: CallOptions): AsyncGenerator<ListedObject, void, void> {
    checkPrefix(prefix)
    const folder = prefix.slice(0, prefix.lastIndexOf('/') + 1)
    yield* this.#walk(folder, prefix, options)
  }

  async *#walk(
    folder: string,
    prefix: string,
    options?: CallOptions,
  ): AsyncGenerator<ListedObject, void, void> {
    throwIfCancelled(options?.signal)
    const entries =
      (await readdir(join(this.#root, folder), { withFileTypes: true }).catch(undefinedIfAbsent)) ?? []
    const keys = entries
      .filter(({ name }) => !name.startsWith('.'))
      // A folder's slash takes part in the order: "a.b" comes before "a/b".
      .map((entry) => `${folder}${entry.name}${entry.isDirectory() ? '/' : ''}`)
      .filter((key) => key.startsWith(prefix) || (key.endsWith('/') && prefix.startsWith(key)))
      .sort()
    for (const key of keys) {
      if (key.endsWith('/')) {
        yield* this.#walk(key, prefix, options)
        continue
      }
      const found = await stat(join(this.#root, key)).catch(undefinedIfAbsent)
      if (found !== undefined) yield { key, sizeBytes: found.size, modifiedMs: found.mtimeMs }
    }
  }

  async delete(keys: readonly string[], options?: CallOptions): Promise<void> {
    for (const key of keys) checkKey(key)
    for (let done = 0; done < keys.length; done += DELETES_PER_LOCK) {
      throwIfCancelled(options?.signal)
      const batch = keys.slice(done, done + DELETES_PER_LOCK)
      const touched = await this.#lock.hold(options, () => new Set(batch.flatMap((key) => this.#unlink(key))))
      for (const folder of touched) await realDisk.syncDirectory(folder).catch(undefinedIfGone)
    }
  }

  async close(): Promise<void> {
    this.#lock.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Removes one file and the folders it leaves empty; returns the folders whose names changed. Under the lock. */
  #unlink(key: string): string[] {
    const path = join(this.#root, key)
    try {
      unlinkSync(path)
    } catch (error) {
      if (isAbsence(error)) return []
      throw diskError(error, `delete object "${key}" of ${this.description}`)
    }
    const touched = [dirname(path)]
    for (let folder = dirname(path); folder !== this.#root; folder = dirname(folder)) {
      try {
        rmdirSync(folder)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOTEMPTY') break
        throw diskError(error, `remove empty folder "${folder}"`)
      }
      touched.push(dirname(folder))
    }
    return touched
  }

  async #putIf(
    key: string,
    bytes: Uint8Array,
    options: CallOptions | undefined,
    mayReplace: (etag?: string) => boolean,
  ): Promise<ConditionalPut> {
    checkConditionalSize(key, bytes)
    const isStored = await this.#write(key, bytes, options, (path) => mayReplace(etagOf(path)))
    return isStored ? { kind: 'stored', etag: contentEtag(bytes) } : { kind: 'conflict' }
  }

  /** Writes the bytes aside and lets them take the key's place if `mayReplace`, asked under the lock, says so. */
  #write(
    key: string,
    bytes: Uint8Array,
    options: CallOptions | undefined,
    mayReplace: (path: string) => boolean,
  ): Promise<boolean> {
    return this.#attempt('write', key, options, async (path) => {
      const draft = await this.#writeDraft(bytes)
      try {
        const firstMade = await this.#lock.hold(options, () => {
          if (!mayReplace(path)) return null
          const made = mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
          renameSync(draft, path)
          return made
        })
        if (firstMade === null) return false
        await this.#syncFolders(path, firstMade)
        return true
      } finally {
        await rm(draft, { force: true })
      }
    })
  }

  async #writeDraft(bytes: Uint8Array): Promise<string> {
    const name = `${process.pid}-${this.#draftsCount++}-${this.#rng.u32().toString(16)}`
    const path = join(this.#root, DRAFTS, name)
    try {
      await using handle = await open(path, 'wx', 0o600)
      await handle.writeFile(bytes)
      await handle.datasync()
    } catch (error) {
      await rm(path, { force: true })
      throw error
    }
    return path
  }

  async #syncFolders(path: string, firstMade: string | undefined): Promise<void> {
    let folder = dirname(path)
    // A folder that is gone again was emptied by a delete that came later.
    await realDisk.syncDirectory(folder).catch(undefinedIfGone)
    while (firstMade !== undefined && folder.startsWith(firstMade)) {
      folder = dirname(folder)
      await realDisk.syncDirectory(folder).catch(undefinedIfGone)
    }
  }

  async #attempt<T>(
    verb: string,
    key: string,
    options: CallOptions | undefined,
    work: (path: string) => Promise<T>,
  ): Promise<T> {
    checkKey(key)
    throwIfCancelled(options?.signal)
    try {
      return await work(join(this.#root, key))
    } catch (error) {
      if (isFolderInstead(error)) {
        if (verb === 'read') throw notFound(key, this.description)
        throw fail('precondition', `object key "${key}" is a folder of other keys, or lies below a key`)
      }
      if (isAbsence(error))
        throw verb === 'read' ? notFound(key, this.description) : vanished(this.description, error)
      throw diskError(error, `${verb} object "${key}" of ${this.description}`)
    }
  }
}

function vanished(root: string, cause: unknown): Error {
  return fail('precondition', `the object store's folder ${root} is gone`, {
    hint: 'Put it back, or start again with an empty folder.',
    cause,
  })
}

function etagOf(path: string): string | undefined {
  try {
    return contentEtag(readFileSync(path))
  } catch (error) {
    if (isAbsence(error)) return undefined
    throw error
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined
}

function isAbsence(error: unknown): boolean {
  return codeOf(error) === 'ENOENT' || codeOf(error) === 'not_found'
}

function isFolderInstead(error: unknown): boolean {
  if (['EISDIR', 'ENOTDIR', 'EEXIST', 'ENOTEMPTY'].includes(String(codeOf(error)))) return true
  const cause = error instanceof Error ? error.cause : undefined
  return cause !== undefined && isFolderInstead(cause)
}

function undefinedIfAbsent(error: unknown): undefined {
  if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'ENOTDIR') throw error
  return undefined
}

function undefinedIfGone(error: unknown): undefined {
  if (!isAbsence(error)) throw error
  return undefined
}
