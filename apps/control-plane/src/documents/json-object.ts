/** JSON in the object store, read and replaced as a whole. */
import { UnderstoryError, describeError } from '@understory/base'
import { getIfPresent } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'

export interface JsonObject {
  readonly json: unknown
  readonly etag: string
}

export const encodeJson = (value: unknown): Uint8Array =>
  Buffer.from(`${JSON.stringify(value, undefined, 1)}\n`)

/** Undefined where nothing is. Error: `bad_file` where it is not JSON. */
export async function readJson(store: ObjectStore, key: string): Promise<JsonObject | undefined> {
  const found = await getIfPresent(store, key)
  if (found === undefined) return undefined
  try {
    return { json: JSON.parse(Buffer.from(found.bytes).toString()), etag: found.etag }
  } catch (cause) {
    throw new UnderstoryError('bad_file', `"${key}" is not JSON`, { detail: describeError(cause), cause })
  }
}

/**
 * The new etag; undefined where another writer was faster. `over`: the etag to replace, or undefined where nothing is
 * to be.
 */
export async function writeJson(
  store: ObjectStore,
  key: string,
  value: unknown,
  over: string | undefined,
): Promise<string | undefined> {
  const bytes = encodeJson(value)
  const result =
    over === undefined ? await store.putIfAbsent(key, bytes) : await store.putIfMatch(key, over, bytes)
  return result.kind === 'stored' ? result.etag : undefined
}
