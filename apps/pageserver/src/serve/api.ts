/** The gRPC face: parses, asks the shard, converts. */
import { isErrorCode, lsnFromBigint, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock } from '@understory/env'
import {
  readGeneration,
  readPostgresIdentity,
  readSafekeeperAddresses,
  readShardRef,
  readTimelineRef,
} from '@understory/protocol'
import {
  FullPageWrites,
  PageserverServiceService,
  bidiStream,
  clientStream,
  serverStream,
  service,
  unary,
} from '@understory/rpc'
import type {
  AttachShardRequest,
  GetPagesRequest,
  GetPagesResponse,
  ImageGeneration,
  ImportShardRequest,
  PageserverServiceServer,
  RpcService,
  ShardRef,
  ShardStatus,
  TimelineRef,
} from '@understory/rpc'
import {
  CHECKPOINT_STATE_KEY,
  CONTROL_FILE_KEY,
  readImportBatch,
  readPageRequests,
} from '@understory/storage'
import type { ImageGenerationSettings, ImportValue } from '@understory/storage'
import { streamFiles } from './file-stream.ts'
import type { PageserverObserver } from '../telemetry/pageserver-observer.ts'
import { READ_DEADLINE_MS, readPages } from './page-reads.ts'
import type { ShardRegistry } from '../shard/shard-registry.ts'
import type { AttachRequest } from '../shard/starting-index.ts'
import type { Shard } from '../shard/shard.ts'

/** `observer` is undefined where nothing is measured. */
export function pageserverService(
  registry: ShardRegistry,
  clock: Clock,
  observer?: PageserverObserver,
): RpcService {
  const find = (timeline: TimelineRef | undefined, shard: ShardRef | undefined): Shard => {
    const { tenantId, timelineId } = readTimelineRef(timeline)
    return registry.get(tenantId, timelineId, readShardRef(shard))
  }
  return service<PageserverServiceServer>(PageserverServiceService, {
    attachShard: unary(async (request: AttachShardRequest) => ({
      ingestedLsn: BigInt(await registry.attach(readAttach(request))),
    })),
    detachShard: unary(async ({ timeline, shard }) => {
      const { tenantId, timelineId } = readTimelineRef(timeline)
      await registry.detach(tenantId, timelineId, readShardRef(shard))
      return {}
    }),
    importShard: clientStream(async (messages: AsyncIterable<ImportShardRequest>) => {
      const iterator = messages[Symbol.asyncIterator]()
      const first = (await iterator.next()).value?.message as ImportShardRequest['message']
      if (first?.$case !== 'open') throw fail('bad_argument', 'an import begins with its open message')
      const { timeline, shard, startLsn } = first.value
      let endLsn: Lsn | undefined
      async function* batches(): AsyncGenerator<Iterable<ImportValue>, void, void> {
        for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) {
          const { message } = next.value
          if (endLsn !== undefined || message === undefined || message.$case === 'open') {
            throw fail('bad_argument', `import message "${message?.$case ?? 'none'}" is out of order`)
          }
          if (message.$case === 'values') yield readImportBatch(message.value)
          else endLsn = lsnFromBigint(message.value.endLsn)
        }
      }
      const count = await find(timeline, shard).import(lsnFromBigint(startLsn), batches(), () => endLsn)
      return { valuesCount: BigInt(count) }
    }),
    getPages: bidiStream<GetPagesRequest, GetPagesResponse>(async function* (messages, { signal }) {
      let shard: Shard | undefined
      for await (const { timeline, shard: ref, requests: framed, traceparent } of messages) {
        if (timeline !== undefined || shard === undefined) shard = find(timeline, ref)
        const requests = readPageRequests(framed)
        const reads = observer?.readsBegin(shard.owner, requests.length, traceparent)
        try {
          yield await readPages(shard, requests, clock, signal, reads)
          reads?.ended()
        } catch (error) {
          reads?.ended(isErrorCode(error, 'cancelled') ? 'cancelled' : 'failed')
          throw error
        }
      }
    }),
    getControlState: unary(async ({ timeline, shard: ref, lsn }, { signal }) => {
      const shard = find(timeline, ref)
      if (!shard.reader.isFirstShard) throw fail('bad_argument', 'control state is on shard 0')
      const at = lsn === 0n ? shard.ingestedLsn : lsnFromBigint(lsn)
      await shard.waitFor(at, READ_DEADLINE_MS, signal)
      const tracker = await shard.reader.readBytes(CHECKPOINT_STATE_KEY, at)
      const controlFile = await shard.reader.readBytes(CONTROL_FILE_KEY, at)
      if (tracker === undefined || controlFile === undefined)
        throw fail('not_found', 'shard has no control state at this lsn')
      return { lsn: BigInt(at), tracker: Buffer.from(tracker), controlFile: Buffer.from(controlFile) }
    }),
    streamFiles: serverStream(async function* ({ timeline, shard: ref, lsn, after }, { signal }) {
      const shard = find(timeline, ref)
      const at = lsn === 0n ? shard.ingestedLsn : lsnFromBigint(lsn)
      await shard.waitFor(at, READ_DEADLINE_MS, signal)
      yield* streamFiles(shard.reader, at, after)
    }),
    setImageGeneration: unary(async ({ timeline, shard, imageGeneration, generation }) => {
      const settings = readImageGeneration(imageGeneration)
      if (settings === undefined) throw fail('bad_argument', 'image generation settings are missing')
      await find(timeline, shard).setImageGeneration(settings, readGeneration('image', generation))
      return {}
    }),
    getShardStatus: unary(({ timeline }) => {
      const shards =
        timeline === undefined ? registry.all : registry.ofTimeline(timeline.tenantId, timeline.timelineId)
      return { shards: shards.map(statusOf) }
    }),
    flushShard: unary(async ({ timeline, shard }) => ({
      remoteConsistentLsn: BigInt(await find(timeline, shard).flush()),
    })),
  })
}

function statusOf(shard: Shard): ShardStatus {
  const { owner, index, latency, imageGeneration, counts } = shard
  const { tracker } = counts
  const chains = counts.chains.summary()
  const { FULL_PAGE_WRITES_OFF, FULL_PAGE_WRITES_ON, FULL_PAGE_WRITES_UNSPECIFIED } = FullPageWrites
  const seen = tracker?.fullPageWrites === true ? FULL_PAGE_WRITES_ON : FULL_PAGE_WRITES_OFF
  return {
    timeline: { tenantId: owner.tenantId, timelineId: owner.timelineId },
    shard: { ...owner.shard },
    generation: BigInt(shard.generation),
    ingestedLsn: BigInt(shard.ingestedLsn),
    remoteConsistentLsn: BigInt(shard.remoteConsistentLsn),
    failure: shard.failure ?? '',
    stall: shard.stall ?? '',
    loading: shard.isLoading,
    imageGeneration: { ...imageGeneration },
    fullPageWrites: tracker === undefined ? FULL_PAGE_WRITES_UNSPECIFIED : seen,
    fullPageWritesLsn: BigInt(tracker?.fullPageWritesLsn ?? 0),
    walBytes: BigInt(counts.walBytes),
    walImages: BigInt(counts.walImagesCount),
    generatedImages: BigInt(counts.generatedImagesCount),
    chainP50: chains.p50,
    chainP99: chains.p99,
    chainMax: chains.max,
    chainPages: BigInt(chains.pages),
    getPages: BigInt(latency.count),
    getPageHistogramUs: latency.pairs(),
    layers: index.layers.length,
    layerBytes: BigInt(counts.layerBytes),
    lastCheckpointRedoLsn: BigInt(tracker?.checkpointRedoLsn ?? 0),
  }
}

function readImageGeneration(images: ImageGeneration | undefined): ImageGenerationSettings | undefined {
  if (images === undefined) return undefined
  const { enabled, thresholdRecords } = images
  if (thresholdRecords < 1 || thresholdRecords > 10_000) {
    throw fail('bad_argument', `image threshold ${thresholdRecords} is not from 1 to 10,000`)
  }
  return { enabled, thresholdRecords }
}

/** Records after which a chain is cut, unless set otherwise. */
const THRESHOLD_RECORDS_DEFAULT = 32

function readAttach(request: AttachShardRequest): AttachRequest {
  const { generation, postgres, create, safekeepers } = request
  if (generation < 1n || generation > 0xffff_ffffn)
    throw fail('bad_argument', `generation ${generation} is not from 1 to 2^32 - 1`)
  return {
    owner: { ...readTimelineRef(request.timeline), shard: readShardRef(request.shard) },
    generation: Number(generation),
    create,
    safekeepers: readSafekeeperAddresses(safekeepers),
    postgres: readPostgresIdentity(postgres),
    imageGeneration: readImageGeneration(request.imageGeneration) ?? {
      enabled: false,
      thresholdRecords: THRESHOLD_RECORDS_DEFAULT,
    },
    rollback:
      request.rollback === undefined
        ? undefined
        : {
            lsn: lsnFromBigint(request.rollback.lsn),
            beforeGeneration: Number(request.rollback.beforeGeneration),
          },
  }
}
