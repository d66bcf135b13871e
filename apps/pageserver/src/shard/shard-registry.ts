/** The shards that this process serves, each under the newest generation it was given. */
import { resolve } from 'node:path'
import { KeyedMailbox, Mailbox, Semaphore } from '@understory/actor'
import { formatLsn, parseTenantId, parseTimelineId, fail } from '@understory/base'
import type { Lsn, ShardIdentity, TenantId, TimelineId } from '@understory/base'
import type { IndexPart, LayerOwner } from '@understory/storage'
import { LayerRoom } from '../layers/layer-room.ts'
import { RemoteIndex, staleGeneration } from '../layers/remote-index.ts'
import { ShardFiles, listAttached } from '../layers/shard-files.ts'
import type { AttachDocument } from '../layers/shard-files.ts'
import { Shard } from './shard.ts'
import { StartingIndex } from './starting-index.ts'
import type { AttachRequest } from './starting-index.ts'
import type { ShardParts } from './connect-parts.ts'

/** Shards that are loaded side by side. */
const LOADS_COUNT_MAX = 8

const shardName = ({ tenantId, timelineId, shard }: LayerOwner): string =>
  `${tenantId}/${timelineId}/${shard.number}`

export class ShardRegistry {
  readonly #parts: ShardParts
  readonly #dataDirectory: string
  readonly #room: LayerRoom
  readonly #shards = new Map<string, Shard>()
  /** By shard: one that waits, for the rest of its import or for its layers, keeps no other waiting. */
  readonly #mailboxes = new KeyedMailbox({ name: 'shards' })
  /** Whose turn it is to be loaded at the start. */
  readonly #loadTurns = new Semaphore(LOADS_COUNT_MAX)
  /** Of what makes and removes folders that shards have in common. */
  readonly #folders = new Mailbox({ name: 'folders' })

  constructor(parts: ShardParts, dataDirectory: string) {
    this.#parts = parts
    this.#dataDirectory = dataDirectory
    const { env, limits } = parts
    this.#room = new LayerRoom({ ...env, filesBytesMax: limits.layerFilesBytesMax })
  }

  /**
   * Begins to load every shard that is on the disk; `loaded` says when that has ended. Until then callers are asked to
   * try again. A shard that cannot be loaded is logged, the others are served.
   */
  async loadAll(): Promise<void> {
    const { log } = this.#parts.env
    for (const { path, attached } of await listAttached(this.#parts.env.disk, this.#dataDirectory)) {
      try {
        if (attached instanceof Error) throw attached
        await this.#loadLocal(path, attached)
      } catch (error) {
        log.error('shard_not_loaded', { path, error })
      }
    }
  }

  async #loadLocal(path: string, attached: AttachDocument): Promise<void> {
    const owner = ownerOf(attached)
    const files = this.#files(owner)
    if (resolve(files.directory) !== resolve(path)) {
      throw fail(
        'bad_file',
        `"${path}" has the files of another shard, which belong in "${files.directory}"`,
        {
          hint: 'Move them there, or remove them; the control plane attaches the shard again.',
        },
      )
    }
    await files.removeLeftovers()
    const index = await files.readIndex()
    // Made by a crash while it was attached: the control plane attaches it again.
    if (index === undefined) return
    await files.removeOrphans(index)
    const shard = this.#put(files, attached, index)
    void this.#mailboxes.run(shardName(owner), () => this.#loadInTurn(shard))
  }
  /** A shard that waits for trouble outside keeps no other waiting. */
  async #loadInTurn(shard: Shard): Promise<void> {
    const loaded = await this.#loadTurns.run(async () => {
      const loading = shard.load()
      await shard.loadedOrStalled(loading)
      return { loading }
    })
    await loaded.loading
  }
  /** Resolves once no shard is being loaded, attached or detached. */
  loaded(): Promise<void> {
    return this.#mailboxes.idle()
  }

  get all(): readonly Shard[] {
    return [...this.#shards.values()]
  }
  /** Of layers of all shards on the local disk. */
  get layerFilesBytes(): number {
    return this.#room.filesBytes
  }
  ofTimeline(tenantId: string, timelineId: string): readonly Shard[] {
    return this.all.filter(({ owner }) => owner.tenantId === tenantId && owner.timelineId === timelineId)
  }

  /** Errors: `unknown_timeline` or, where its layout is another, `bad_argument`. */
  get(tenantId: TenantId, timelineId: TimelineId, shard: ShardIdentity): Shard {
    const found = this.#shards.get(shardName({ tenantId, timelineId, shard }))
    if (found === undefined) {
      throw fail(
        'unknown_timeline',
        `shard ${shard.number} of timeline ${timelineId} of tenant ${tenantId} is not here`,
        {
          hint: 'Ask the control plane which pageserver has it.',
        },
      )
    }
    const own = found.owner.shard
    if (own.count !== shard.count || own.stripeBlocks !== shard.stripeBlocks) {
      const layout = `${own.count} shards with stripes of ${own.stripeBlocks} blocks`
      throw fail(
        'bad_argument',
        `timeline ${timelineId} has ${layout}, not ${shard.count} with ${shard.stripeBlocks}`,
      )
    }
    return found
  }

  /**
   * Makes or loads the shard, or adopts a newer generation; returns where ingest continues, 0 while an import is
   * awaited. Errors: `stale` for a generation older than one known here or published in the object store; `not_found`
   * where there is nothing to load and `create` is not set.
   */
  attach(request: AttachRequest): Promise<Lsn> {
    return this.#mailboxes.run(shardName(request.owner), () => this.#attach(request))
  }
  async #attach(request: AttachRequest): Promise<Lsn> {
    const { owner, generation } = request
    const attached: AttachDocument = {
      tenantId: owner.tenantId,
      timelineId: owner.timelineId,
      shard: owner.shard,
      generation,
      safekeepers: [...request.safekeepers],
    }
    const { store, env } = this.#parts
    const start = new StartingIndex(request, new RemoteIndex(store, owner), env.log)
    const here = this.#shards.get(shardName(owner))
    if (here !== undefined) {
      this.get(owner.tenantId, owner.timelineId, owner.shard)
      if (generation < here.generation) throw staleGeneration(generation, here.generation)
      const mayStay = generation === here.generation || !(await start.replaces(here))
      if (mayStay && (await here.adoptGeneration(attached))) return here.ingestedLsn
      this.#shards.delete(shardName(owner))
      await here.stop()
    }
    const published = await start.readPublished()
    const files = this.#files(owner)
    await this.#folders.run(() => files.make())
    await files.removeLeftovers()
    const index = start.choose(await files.readIndex(), here?.isDamaged === true)
    await files.removeOrphans(index)
    await files.writeIndex(index)
    await files.writeAttach(attached)
    const shard = await this.#add(files, attached, index, published)
    if (shard.isImported && !shard.hasFailed) await shard.upload()
    env.log.info('shard_attached', {
      tenant: owner.tenantId,
      timeline: owner.timelineId,
      shard: owner.shard.number,
      generation,
      ingestedLsn: formatLsn(shard.ingestedLsn),
    })
    return shard.ingestedLsn
  }

  async #add(
    files: ShardFiles,
    attached: AttachDocument,
    index: IndexPart,
    published: IndexPart | undefined,
  ): Promise<Shard> {
    const shard = this.#put(files, attached, index)
    if (published !== undefined) shard.noteRemote(published)
    await shard.load()
    return shard
  }
  #put(files: ShardFiles, attached: AttachDocument, index: IndexPart): Shard {
    const shard = new Shard(this.#parts, files, attached, index)
    this.#shards.set(shardName(ownerOf(attached)), shard)
    return shard
  }

  /**
   * Stops serving the shard; local files go, objects stay. There may be none, or files alone: of one that could not be
   * loaded, or that a crash left while it was detached.
   */
  async detach(tenantId: TenantId, timelineId: TimelineId, identity: ShardIdentity): Promise<void> {
    const owner: LayerOwner = { tenantId, timelineId, shard: identity }
    // A load may wait for the object store.
    if (this.#shards.has(shardName(owner))) this.get(tenantId, timelineId, identity).cancel()
    return this.#mailboxes.run(shardName(owner), async () => {
      if (this.#shards.has(shardName(owner))) {
        const shard = this.get(tenantId, timelineId, identity)
        this.#shards.delete(shardName(owner))
        await shard.stop()
        this.#parts.observer?.forget(owner)
        this.#parts.env.log.info('shard_detached', {
          tenant: tenantId,
          timeline: timelineId,
          shard: identity.number,
        })
      }
      const files = this.#files(owner)
      await files.remove()
      await this.#folders.run(() => files.removeEmptyParents())
    })
  }

  async stop(): Promise<void> {
    for (const shard of this.all) shard.cancel()
    await this.#mailboxes.idle()
    await Promise.all(this.all.map((shard) => shard.stop()))
  }

  #files(owner: LayerOwner): ShardFiles {
    return new ShardFiles(this.#parts.env.disk, this.#room, this.#dataDirectory, owner)
  }
}

const ownerOf = ({ tenantId, timelineId, shard }: AttachDocument): LayerOwner => ({
  tenantId: parseTenantId(tenantId),
  timelineId: parseTimelineId(timelineId),
  shard,
})
