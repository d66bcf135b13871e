/**
 * Tenant documents in the object store. Two control planes may run: every change is a compare-and-swap on what was
 * read, and the leading one alone changes anything (leader-lease.ts). `control/names/<name>` makes names unique: its
 * first writer has it, and the id that it says is the tenant's, from any creation that writes the document.
 */
import { KeyedMailbox } from '@understory/actor'
import { assert, parseNodeId, fail } from '@understory/base'
import type { ObjectStore } from '@understory/object-store'
import {
  TENANT_DOCUMENTS_PREFIX,
  tenantDocumentKey,
  tenantNameKey,
  tenantOfDocumentKey,
} from '@understory/protocol'
import { z } from 'zod'
import { encodeJson, readJson } from './json-object.ts'
import type { Leadership } from './leader-lease.ts'
import { changeDocument, requireNotNewer, unreadable, wrongOwner } from './led-document.ts'
import type { Versioned } from './led-document.ts'
import { migrateTenant } from './migration.ts'
import { isVersion1 } from './tenant-document-v1.ts'
import { readTenantDocument } from './tenant-document.ts'
import type { TenantDocument } from './tenant-document.ts'

/** The document under a name. */
const claim = z.object({ tenantId: z.string().regex(/^[0-9a-f]{32}$/) })

export class TenantStore {
  readonly #store: ObjectStore
  readonly #lease: Leadership
  readonly #migrations = new KeyedMailbox({ name: 'migrations' })

  constructor(store: ObjectStore, lease: Leadership) {
    this.#store = store
    this.#lease = lease
  }

  /**
   * Returns the document as it was stored: where a creation was cut short behind its claim of the name, under the id of
   * that claim. Errors: `already_exists` where another tenant has the name.
   */
  async create(document: TenantDocument): Promise<TenantDocument> {
    const { epoch } = this.#lease
    const named = await this.#store.putIfAbsent(
      tenantNameKey(document.name),
      encodeJson({ tenantId: document.tenantId }),
    )
    const claimed = named.kind === 'stored' ? document.tenantId : await this.#idOf(document.name)
    const created = { ...document, epoch, tenantId: claimed ?? document.tenantId }
    const stored = await this.#store.putIfAbsent(tenantDocumentKey(created.tenantId), encodeJson(created))
    if (stored.kind === 'stored') return created
    throw fail('already_exists', `tenant "${document.name}" already exists`, {
      hint: 'Choose another name.',
    })
  }

  /** By name or id. Errors: `unknown_tenant`; `bad_argument` for text that is neither; `bad_file`. */
  async find(nameOrId: string): Promise<TenantDocument> {
    const isId = /^[0-9a-f]{32}$/.test(nameOrId)
    const id = isId ? nameOrId : await this.#idOf(parseNodeId(nameOrId))
    const found = id === undefined ? undefined : await this.#read(id)
    if (found !== undefined && !isId && found.document.name !== nameOrId)
      throw wrongOwner(tenantNameKey(nameOrId), `tenant "${found.document.name}"`)
    if (found !== undefined && !found.document.isDeleted) return found.document
    throw fail('unknown_tenant', `tenant "${nameOrId}" does not exist`, {
      hint: 'List the tenants with `understory tenant list`.',
    })
  }

  /** By id, a deleted one too; undefined where there is none. Error: `bad_file`. */
  async read(tenantId: string): Promise<TenantDocument | undefined> {
    return (await this.#read(tenantId))?.document
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
   * Stores what `change` makes of the newest document and returns it; `change` runs again when another writer was
   * faster, and does nothing by returning its argument. Errors: `stale` where another control plane leads by now.
   */
  update(tenantId: string, change: (document: TenantDocument) => TenantDocument): Promise<TenantDocument> {
    const read = async (): Promise<Versioned<TenantDocument>> => {
      const found = await this.#read(tenantId)
      if (found !== undefined) return found
      throw fail('unknown_tenant', `tenant ${tenantId} does not exist`)
    }
    return changeDocument(this.#store, this.#lease, tenantDocumentKey(tenantId), read, change)
  }

  /** Another tenant may have the name of a deleted one. Called by one at a time. */
  async releaseName({ name, tenantId }: TenantDocument): Promise<void> {
    if ((await this.#idOf(name)) === tenantId) await this.#store.delete([tenantNameKey(name)])
  }

  /** The last of a deleted tenant. Errors: `stale` where another control plane leads by now. */
  async remove(tenantId: string): Promise<void> {
    const { document } = (await this.#read(tenantId)) ?? {}
    if (document === undefined) return
    const { isDeleted, removals, timelines } = document
    assert(isDeleted && removals.length + timelines.length === 0, () => `tenant ${tenantId} is in use`)
    requireNotNewer(document.epoch, this.#lease.epoch)
    await this.#store.delete([tenantDocumentKey(tenantId)])
  }

  async #idOf(name: string): Promise<string | undefined> {
    const key = tenantNameKey(name)
    const found = await readJson(this.#store, key)
    if (found === undefined) return undefined
    const { success, data } = claim.safeParse(found.json)
    if (success) return data.tenantId
    throw fail('bad_file', `"${key}" does not say which tenant has the name`, {
      hint: 'Restore the object from a backup.',
    })
  }

  /** A document of version 1 is migrated before it is read. */
  async #read(tenantId: string): Promise<Versioned<TenantDocument> | undefined> {
    // Without the lead what is read here may be of the past.
    this.#lease.requireHeld()
    const key = tenantDocumentKey(tenantId)
    let found = await readJson(this.#store, key)
    if (isVersion1(found?.json)) {
      await this.#migrations.run(tenantId, () => migrateTenant(this.#store, this.#lease, tenantId))
      found = await readJson(this.#store, key)
    }
    if (found === undefined) return undefined
    const read = readTenantDocument(found.json)
    if ('problem' in read) throw unreadable('tenant document', key, read.problem)
    if (read.document.tenantId !== tenantId) throw wrongOwner(key, `tenant ${read.document.tenantId}`)
    return { document: read.document, etag: found.etag }
  }
}
