/**
 * A document that the leading control plane alone changes: by compare-and-swap on what was read, stamped with the epoch
 * of its lead. It is never written under an epoch lower than its own, so a control plane that was overtaken changes
 * nothing that its successor has written once.
 */
import { fail } from '@understory/base'
import type { ObjectStore } from '@understory/object-store'
import type { Leadership } from './leader-lease.ts'
import { writeJson } from './json-object.ts'

/** Attempts of one change under contention. */
const ATTEMPTS_MAX = 20

export interface Versioned<D> {
  readonly document: D
  /** Undefined where it is not stored yet. */
  readonly etag: string | undefined
}

/**
 * Stores what `change` makes of the newest document and returns it. `read` and `change` run again when another writer
 * was faster; a change that returns its argument is none. Errors: those of both; `stale` where another control plane
 * leads by now; `conflict`.
 */
export async function changeDocument<D extends { readonly epoch: number }>(
  store: ObjectStore,
  lease: Leadership,
  key: string,
  read: () => Promise<Versioned<D>>,
  change: (document: D) => D,
): Promise<D> {
  const { epoch } = lease
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const { document, etag } = await read()
    requireNotNewer(document.epoch, epoch)
    const changed = change(document)
    if (changed === document && document.epoch === epoch && etag !== undefined) return changed
    const next = { ...changed, epoch }
    if ((await writeJson(store, key, next, etag)) !== undefined) return next
  }
  throw fail('conflict', `"${key}" was changed by others ${ATTEMPTS_MAX} times in a row`)
}

/** Errors: `stale`. */
export function requireNotNewer(documentEpoch: number, epoch: number): void {
  if (documentEpoch > epoch)
    throw fail('stale', `a control plane with epoch ${documentEpoch} leads, this one had ${epoch}`)
}

/** A document that was copied under the name of another must not be taken for that one's. */
export const wrongOwner = (key: string, owner: string): Error =>
  fail('bad_file', `"${key}" is of ${owner}`, {
    hint: 'It was copied under a wrong name: put the one back that belongs there.',
  })

export const unreadable = (what: string, key: string, detail: string): Error =>
  fail('bad_file', `${what} "${key}" is not what this version reads`, {
    detail,
    hint: 'Restore the object from a backup, or run the version that wrote it.',
  })
