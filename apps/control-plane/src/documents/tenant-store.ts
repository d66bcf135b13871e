/**
 * Tenant documents in the object store. Two control planes may run: every change is a compare-and-swap on what was
 * read, and only the one that leads changes anything (leader-lease.ts). `control/names/<name>` makes names unique: whoever
 * writes it first has it, and the id that it says is the tenant's, whoever gets to write the document.
 */
import { UnderstoryError, assert, describeError, parseNodeId, refuse } from '@understory/base'
import { getIfPresent } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import {
  TENANT_DOCUMENTS_PREFIX,
  tenantDocumentKey,
  tenantNameKey,
  tenantOfDocumentKey,
} from '@understory/protocol'
import { z } from 'zod'
import type { Leadership } from './leader-lease.ts'
import { readTenantDocument } from './tenant-document.ts'
import type { TenantDocument } from './tenant-document.ts'

/** Attempts of one change under contention with another control plane. */
const ATTEMPTS_MAX = 20

/** What is under a name. */
const claim = z.object({ tenantId: z.string().regex(/^[0-9a-f]{32}$/) })

const encode = (value: unknown): Uint8Array => Buffer.from(`${JSON.stringify(value, undefined, 1)}\n`)

interface Versioned {
  readonly document: TenantDocument
  readonly etag: string
}

export class TenantStore {
  readonly #store: ObjectStore
  readonly #lease: Leadership

  constructor(store: ObjectStore, lease: Leadership) {
    this.#store = store
    this.#lease = lease
  }

  /**
   * Gives the document as it was stored: where a creation was cut short behind its claim of the name, under the id of
   * that claim. Error: refused `already_exists` where another tenant has the name.
   */
  async create(document: TenantDocument): Promise<TenantDocument> {
    const { epoch } = this.#lease
    const named = await this.#store.putIfAbsent(
      tenantNameKey(document.name),
      encode({ tenantId: document.tenantId }),
    )
    const claimed = named.kind === 'stored' ? document.tenantId : await this.#idOf(document.name)
    const created = { ...document, epoch, tenantId: claimed ?? document.tenantId }
    const stored = await this.#store.putIfAbsent(tenantDocumentKey(created.tenantId), encode(created))
    if (stored.kind === 'stored') return created
    throw refuse('already_exists', `tenant "${document.name}" already exists`, {
      hint: 'Choose another name.',
    })
  }

  /** By name or id. Errors: refused `unknown_tenant`; `bad_argument` for text that is neither; `bad_file`. */
  async find(nameOrId: string): Promise<TenantDocument> {
    const isId = /^[0-9a-f]{32}$/.test(nameOrId)
    const id = isId ? nameOrId : await this.#idOf(parseNodeId(nameOrId))
    const found = id === undefined ? undefined : await this.#read(id)
    if (found !== undefined && !isId && found.document.name !== nameOrId)
      throw wrongOwner(tenantNameKey(nameOrId), `tenant "${found.document.name}"`)
    if (found !== undefined && !found.document.isDeleted) return found.document
    throw refuse('unknown_tenant', `tenant "${nameOrId}" does not exist`, {
      hint: 'List the tenants with `understory tenant list`.',
    })
  }

  /** Deleted ones too, of which something is left. */
  async list(): Promise<TenantDocument[]> {
    const documents: TenantDocument[] = []
    for await (const { key } of this.#store.list(TENANT_DOCUMENTS_PREFIX)) {
      const found = await this.#read(tenantOfDocumentKey(key))
      if (found !== undefined) documents.push(found.document)
    }
    return documents.toSorted((a, b) => a.name.localeCompare(b.name))
  }

  /**
   * Stores what `change` makes of the newest document and returns it; `change` runs again when someone else was
   * faster, and does nothing by returning its argument. Error: refused `stale` where another control plane leads by now.
   */
  async update(
    tenantId: string,
    change: (document: TenantDocument) => TenantDocument,
  ): Promise<TenantDocument> {
    const { epoch } = this.#lease
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const found = await this.#read(tenantId)
      if (found === undefined) throw refuse('unknown_tenant', `tenant ${tenantId} does not exist`)
      const { document } = found
      if (document.epoch > epoch)
        throw refuse('stale', `a control plane with epoch ${document.epoch} leads, this one had ${epoch}`)
      const changed = change(document)
      if (changed === document && document.epoch === epoch) return changed
      const next = { ...changed, epoch }
      const result = await this.#store.putIfMatch(tenantDocumentKey(tenantId), found.etag, encode(next))
      if (result.kind === 'stored') return next
    }
    throw refuse('conflict', `tenant ${tenantId} was changed by others ${ATTEMPTS_MAX} times in a row`)
  }

  /** Another tenant may have the name of a deleted one. Called by one at a time. */
  async releaseName({ name, tenantId }: TenantDocument): Promise<void> {
    if ((await this.#idOf(name)) === tenantId) await this.#store.delete([tenantNameKey(name)])
  }

  /** The last of a deleted tenant. Error: refused `stale` where another control plane leads by now. */
  async remove(tenantId: string): Promise<void> {
    const { document } = (await this.#read(tenantId)) ?? {}
    if (document === undefined) return
    assert(document.isDeleted && document.removals.length === 0, () => `tenant ${tenantId} is in use`)
    if (document.epoch > this.#lease.epoch)
      throw refuse('stale', `a control plane with epoch ${document.epoch} leads`)
    await this.#store.delete([tenantDocumentKey(tenantId)])
  }

  async #idOf(name: string): Promise<string | undefined> {
    const key = tenantNameKey(name)
    const found = await getIfPresent(this.#store, key)
    if (found === undefined) return undefined
    const { success, data } = claim.safeParse(parseJson(found.bytes, key))
    if (success) return data.tenantId
    throw refuse('bad_file', `"${key}" does not say which tenant has the name`, {
      hint: 'Restore the object from a backup.',
    })
  }

  async #read(tenantId: string): Promise<Versioned | undefined> {
    // Without the lead what is read here may be of the past.
    this.#lease.requireHeld()
    const key = tenantDocumentKey(tenantId)
    const found = await getIfPresent(this.#store, key)
    if (found === undefined) return undefined
    const read = readTenantDocument(parseJson(found.bytes, key))
    if ('document' in read) {
      if (read.document.tenantId !== tenantId) throw wrongOwner(key, `tenant ${read.document.tenantId}`)
      return { document: read.document, etag: found.etag }
    }
    throw refuse('bad_file', `tenant document "${key}" is not what this version writes`, {
      detail: read.problem,
      hint: 'Restore the object from a backup, or run the version that wrote it.',
    })
  }
}

/** A document that was copied under the name of another must not be taken for that one's. */
const wrongOwner = (key: string, owner: string): Error =>
  refuse('bad_file', `"${key}" is of ${owner}`, {
    hint: 'It was copied under a wrong name: put the one back that belongs there.',
  })

function parseJson(bytes: Uint8Array, key: string): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString())
  } catch (cause) {
    throw new UnderstoryError('bad_file', `"${key}" is not JSON`, {
      detail: describeError(cause),
      cause,
    })
  }
}
