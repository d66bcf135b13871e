/**
 * A shard's files on the local disk:
 *
 *   <data-dir>/tenants/<tenant>/timelines/<timeline>/shard-<n>-of-<count>/
 *     attach.json   how the shard was attached: generation, safekeepers
 *     index.json    its layers (index-part.ts); replaced after each layer that is durable
 *     <layer name>  layers
 */
import { dirname, join } from 'node:path'
import { describeError, isAddress, isErrorCode, fail } from '@understory/base'
import type { Disk } from '@understory/env'
import { shardPrefix } from '@understory/protocol'
import { encodeIndexPart, parseIndexPart } from '@understory/storage'
import type { IndexPart, LayerEntry, LayerOwner } from '@understory/storage'
import { z } from 'zod'
import type { LayerPurpose, LayerRoom } from './layer-room.ts'

const INDEX_NAME = 'index.json'
const ATTACH_NAME = 'attach.json'

const attachDocument = z.object({
  version: z.literal(1),
  tenantId: z.string(),
  timelineId: z.string(),
  shard: z.object({ number: z.number(), count: z.number(), stripeBlocks: z.number() }),
  generation: z.number().int().min(0),
  safekeepers: z.array(z.string().refine(isAddress, 'no host:port')),
})
export type AttachDocument = Omit<z.infer<typeof attachDocument>, 'version'>

export class ShardFiles {
  readonly directory: string
  readonly room: LayerRoom
  readonly #disk: Disk
  readonly #owner: LayerOwner

  constructor(disk: Disk, room: LayerRoom, dataDirectory: string, owner: LayerOwner) {
    this.#disk = disk
    this.room = room
    this.#owner = owner
    this.directory = join(dataDirectory, shardPrefix(owner))
  }

  async make(): Promise<void> {
    await this.#disk.makeDirectory(this.directory)
  }
  async remove(): Promise<void> {
    await this.#disk.removeTree(this.directory)
  }
  /**
   * After `remove`: the folders above go too, where this was the last shard of its timeline or tenant. No shard of the
   * same data folder may be made at the same time.
   */
  async removeEmptyParents(): Promise<void> {
    const timeline = dirname(this.directory)
    for (const folder of [timeline, dirname(timeline), dirname(dirname(timeline))]) {
      if ((await this.#disk.stat(folder)) === undefined) continue
      if ((await this.#disk.list(folder)).length > 0) return
      await this.#disk.removeTree(folder)
    }
  }

  /** Undefined where there is none. Errors: `bad_file`. */
  async readIndex(): Promise<IndexPart | undefined> {
    const path = join(this.directory, INDEX_NAME)
    const bytes = await this.#readIfThere(path)
    return bytes === undefined ? undefined : parseIndexPart(bytes, path, this.#owner)
  }
  writeIndex(part: IndexPart): Promise<void> {
    return this.#disk.durableReplace(join(this.directory, INDEX_NAME), encodeIndexPart(part))
  }

  async readAttach(): Promise<AttachDocument | undefined> {
    const bytes = await this.#readIfThere(join(this.directory, ATTACH_NAME))
    return bytes === undefined ? undefined : parseAttach(bytes, join(this.directory, ATTACH_NAME))
  }
  writeAttach(document: AttachDocument): Promise<void> {
    const text = `${JSON.stringify({ version: 1, ...document }, undefined, 1)}\n`
    return this.#disk.durableReplace(join(this.directory, ATTACH_NAME), Buffer.from(text))
  }

  /**
   * Durable under its name before `written` is called, and when it returns. `bytes` is asked for the layer once there
   * is room for it. Errors: those of the disk; of `LayerRoom.claim`; of `bytes`.
   */
  writeLayer(
    { name, sizeBytes }: Pick<LayerEntry, 'name' | 'sizeBytes'>,
    purpose: LayerPurpose,
    bytes: () => Promise<Uint8Array> | Uint8Array,
    written: () => void,
  ): Promise<void> {
    return this.room.claim(this.directory, sizeBytes, purpose, async () => {
      await this.#disk.durableReplace(join(this.directory, name), await bytes())
      written()
    })
  }
  /** Undefined where there is no such file. */
  readLayer(name: string): Promise<Uint8Array | undefined> {
    return this.#readIfThere(join(this.directory, name))
  }
  /** Undefined where there is no such file. */
  async layerSize(name: string): Promise<number | undefined> {
    return (await this.#disk.stat(join(this.directory, name)))?.sizeBytes
  }
  async removeLayer(name: string): Promise<void> {
    await this.#disk.remove(join(this.directory, name))
  }
  layerPath(name: string): string {
    return join(this.directory, name)
  }

  /** Opened for each read, so that a file that was removed or replaced is noticed at once. Error: `not_found`. */
  async readLayerPart(name: string, offset: number, lengthBytes: number): Promise<Uint8Array> {
    await using file = await this.#disk.open(this.layerPath(name), 'read')
    return await file.read(offset, lengthBytes)
  }

  /** Before anything here is replaced. */
  async removeLeftovers(): Promise<void> {
    await this.#disk.removeLeftovers(this.directory)
  }
  /** What a crash left: layers that no index lists. */
  async removeOrphans(part: IndexPart | undefined): Promise<void> {
    const known = new Set([INDEX_NAME, ATTACH_NAME, ...(part?.layers.map(({ name }) => name) ?? [])])
    for (const { name, kind } of await this.#disk.list(this.directory)) {
      if (kind === 'file' && !known.has(name)) await this.#disk.remove(join(this.directory, name))
    }
  }

  async #readIfThere(path: string): Promise<Uint8Array | undefined> {
    try {
      return await this.#disk.readFile(path)
    } catch (error) {
      if (isErrorCode(error, 'not_found')) return undefined
      throw error
    }
  }
}

function parseAttach(bytes: Uint8Array, path: string): AttachDocument {
  try {
    return attachDocument.parse(JSON.parse(Buffer.from(bytes).toString('utf8')))
  } catch (cause) {
    throw fail('bad_file', `"${path}" is damaged`, {
      detail: describeError(cause),
      hint: 'Remove it; the control plane attaches the shard again.',
      cause,
    })
  }
}

/** Attach documents of every shard below a data directory, with the path of those that cannot be read. */
export async function listAttached(
  disk: Disk,
  dataDirectory: string,
): Promise<{ path: string; attached: AttachDocument | Error }[]> {
  const found: { path: string; attached: AttachDocument | Error }[] = []
  const root = join(dataDirectory, 'tenants')
  for (const tenant of await namesIn(disk, root)) {
    const timelines = join(root, tenant, 'timelines')
    for (const timeline of await namesIn(disk, timelines)) {
      for (const shard of await namesIn(disk, join(timelines, timeline))) {
        const path = join(timelines, timeline, shard)
        try {
          const bytes = await disk.readFile(join(path, ATTACH_NAME))
          found.push({ path, attached: parseAttach(bytes, join(path, ATTACH_NAME)) })
        } catch (error) {
          // A folder without it was left by a crash while a shard was made: nothing was promised yet.
          if (!isErrorCode(error, 'not_found')) found.push({ path, attached: error as Error })
        }
      }
    }
  }
  return found
}

async function namesIn(disk: Disk, path: string): Promise<string[]> {
  if ((await disk.stat(path)) === undefined) return []
  return (await disk.list(path)).filter(({ kind }) => kind === 'directory').map(({ name }) => name)
}
