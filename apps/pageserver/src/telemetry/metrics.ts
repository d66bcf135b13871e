/** Metrics of a pageserver. */
import { FINE_SECONDS, LONG_SECONDS, POWERS_OF_TWO, SHARD } from '@understory/telemetry'
import type { MetricTable } from '@understory/telemetry'

/** Lengths of chains, in records, that are counted together. */
export const CHAIN_BANDS = ['1', '2-3', '4-7', '8-15', '16-31', '32-63', '64-127', '128+'] as const

/** Why a subscription ended that was still wanted. */
const SUBSCRIPTION_ENDS = ['behind', 'silent', 'failed'] as const
export type SubscriptionEnd = (typeof SUBSCRIPTION_ENDS)[number]

/** The kinds of work that are tried again while there is trouble outside. */
const RETRIED_WORK = ['layer write', 'index write', 'layer read', 'image job'] as const
export type RetriedWork = (typeof RETRIED_WORK)[number]

/** Mailboxes of a shard: what changes it, writes of layers, the local index, the object store. */
const MAILBOXES = ['shard', 'layers', 'index', 'uploads'] as const
export type MailboxName = (typeof MAILBOXES)[number]

/** Why a layer was fetched as a whole: its object was read often, a merge needs its file, its file was damaged. */
const LAYER_FETCH_REASONS = ['hot', 'merge', 'damaged'] as const
export type LayerFetchReason = (typeof LAYER_FETCH_REASONS)[number]

export const METRICS = {
  shards: {
    name: 'understory.pageserver.shards',
    unit: '{shard}',
    kind: 'gauge',
    labels: { state: ['serving', 'loading', 'stalled', 'stopped'] },
    help: 'shards here; a stalled one waits for trouble outside to end, a stopped one ingests nothing',
  },
  retries: {
    name: 'understory.pageserver.retries',
    unit: '{attempt}',
    kind: 'counter',
    labels: { work: RETRIED_WORK },
    help: 'work that failed for trouble outside, as a full disk or busy threads, and is tried again',
  },
  mailboxWait: {
    name: 'understory.pageserver.mailbox.wait.duration',
    unit: 's',
    kind: 'histogram',
    labels: { mailbox: MAILBOXES },
    help: 'a job of a shard waiting for its turn: batches of WAL and freezing, writes of layers, the local index, uploads',
    edges: FINE_SECONDS,
  },
  mailboxRun: {
    name: 'understory.pageserver.mailbox.run.duration',
    unit: 's',
    kind: 'histogram',
    labels: { mailbox: MAILBOXES },
    help: 'such a job, from its turn until its end',
    edges: FINE_SECONDS,
  },
  walIngested: {
    name: 'understory.pageserver.wal.ingested',
    unit: 'By',
    kind: 'counter',
    labels: SHARD,
    help: 'WAL of the timeline that the shard has gone through',
  },
  walStored: {
    name: 'understory.pageserver.wal.stored',
    unit: 'By',
    kind: 'counter',
    labels: SHARD,
    help: "bytes of the shard's own part of it",
  },
  walImages: {
    name: 'understory.pageserver.wal.images',
    unit: '{image}',
    kind: 'counter',
    labels: SHARD,
    help: 'full-page images that came in the WAL',
  },
  walImageSize: {
    name: 'understory.pageserver.wal.image_size',
    unit: 'By',
    kind: 'counter',
    labels: SHARD,
    help: 'bytes of those images as the WAL has them',
  },
  ingestLag: {
    name: 'understory.pageserver.ingest.lag',
    unit: 'By',
    kind: 'gauge',
    labels: SHARD,
    help: 'committed WAL, as last heard, that is not ingested',
  },
  subscriptionsEnded: {
    name: 'understory.pageserver.subscription.ended',
    unit: '{subscription}',
    kind: 'counter',
    labels: { ...SHARD, reason: SUBSCRIPTION_ENDS },
    help: 'subscriptions to a safekeeper that ended: left because it is behind other members or silent, or failed',
  },
  ingestDuration: {
    name: 'understory.pageserver.ingest.duration',
    unit: 's',
    kind: 'histogram',
    labels: {},
    help: 'taking in one batch of WAL',
    edges: FINE_SECONDS,
  },
  ingestedLsn: {
    name: 'understory.pageserver.ingested_lsn',
    unit: 'By',
    kind: 'gauge',
    labels: SHARD,
    help: 'WAL position ingested',
  },
  remoteLag: {
    name: 'understory.pageserver.remote.lag',
    unit: 'By',
    kind: 'gauge',
    labels: SHARD,
    help: 'ingested WAL that is not durable in the object store',
  },
  fpwDrift: {
    name: 'understory.pageserver.fpw.drift',
    unit: '{event}',
    kind: 'counter',
    labels: SHARD,
    help: 'times that full_page_writes went off in the WAL without a request for it',
  },
  chainLength: {
    name: 'understory.pageserver.chain.length',
    unit: '{record}',
    kind: 'histogram',
    labels: {},
    help: 'records of a chain when an image ended it',
    edges: POWERS_OF_TWO,
  },
  chainPages: {
    name: 'understory.pageserver.chain.pages',
    unit: '{page}',
    kind: 'gauge',
    labels: { ...SHARD, records: CHAIN_BANDS },
    help: 'pages by the length of their chain now',
  },
  chainMax: {
    name: 'understory.pageserver.chain.max',
    unit: '{record}',
    kind: 'gauge',
    labels: SHARD,
    help: 'longest chain now',
  },
  chainThreshold: {
    name: 'understory.pageserver.chain.threshold',
    unit: '{record}',
    kind: 'gauge',
    labels: SHARD,
    help: 'records after which an image is made; absent while the shard makes none',
  },
  imagesGenerated: {
    name: 'understory.pageserver.images.generated',
    unit: '{image}',
    kind: 'counter',
    labels: { ...SHARD, trigger: ['threshold', 'bound'] },
    help: 'page images made here: in a worker past the threshold, or within ingest at the bound',
  },
  imageQueue: {
    name: 'understory.pageserver.image.queue',
    unit: '{page}',
    kind: 'gauge',
    labels: SHARD,
    help: 'pages past the threshold that wait for their image',
  },
  imageLag: {
    name: 'understory.pageserver.image.lag',
    unit: 's',
    kind: 'histogram',
    labels: {},
    help: 'from a page passing the threshold until its image is there',
    edges: FINE_SECONDS,
  },
  imageWait: {
    name: 'understory.pageserver.image.wait',
    unit: 's',
    kind: 'gauge',
    labels: SHARD,
    help: 'how long the page that has waited longest for its image has waited; 0 while none waits',
  },
  imageJobDuration: {
    name: 'understory.pageserver.image.job.duration',
    unit: 's',
    kind: 'histogram',
    labels: {},
    help: 'redo of one batch of pages in an image thread',
    edges: FINE_SECONDS,
  },
  imageJobPages: {
    name: 'understory.pageserver.image.job.pages',
    unit: '{page}',
    kind: 'histogram',
    labels: {},
    help: 'pages of one such batch',
    edges: POWERS_OF_TWO,
  },
  getPageDuration: {
    name: 'understory.pageserver.getpage.duration',
    unit: 's',
    kind: 'histogram',
    labels: {},
    help: 'one page read: the wait for its LSN, and its own rebuild',
    edges: FINE_SECONDS,
  },
  getPageWait: {
    name: 'understory.pageserver.getpage.wait.duration',
    unit: 's',
    kind: 'histogram',
    labels: {},
    help: 'waiting until the LSN of a read is ingested',
    edges: FINE_SECONDS,
  },
  getPages: {
    name: 'understory.pageserver.getpage.pages',
    unit: '{page}',
    kind: 'counter',
    labels: { ...SHARD, outcome: ['found', 'absent'] },
    help: 'pages read; absent ones lie beyond the end or in no relation',
  },
  getPageLayers: {
    name: 'understory.pageserver.getpage.layers',
    unit: '{layer}',
    kind: 'histogram',
    labels: {},
    help: 'layers that hold the values of one page read',
    edges: POWERS_OF_TWO,
  },
  redoDuration: {
    name: 'understory.pageserver.redo.duration',
    unit: 's',
    kind: 'histogram',
    labels: {},
    help: 'redo of one page for a read',
    edges: FINE_SECONDS,
  },
  redoRecords: {
    name: 'understory.pageserver.redo.records',
    unit: '{record}',
    kind: 'histogram',
    labels: {},
    help: 'records applied for one page read',
    edges: POWERS_OF_TWO,
  },
  layers: {
    name: 'understory.pageserver.layers',
    unit: '{layer}',
    kind: 'gauge',
    labels: SHARD,
    help: 'layers of the shard',
  },
  layerSize: {
    name: 'understory.pageserver.layer.usage',
    unit: 'By',
    kind: 'gauge',
    labels: SHARD,
    help: 'bytes of those layers',
  },
  layerFilesSize: {
    name: 'understory.pageserver.layer.files.usage',
    unit: 'By',
    kind: 'gauge',
    labels: {},
    help: 'bytes of the layers that have a file on the local disk; all others are read from the object store',
  },
  layersEvicted: {
    name: 'understory.pageserver.layer.evicted',
    unit: '{layer}',
    kind: 'counter',
    labels: {},
    help: 'files of layers that were removed to make room; the object store has the layers',
  },
  layersFetched: {
    name: 'understory.pageserver.layer.fetched',
    unit: '{layer}',
    kind: 'counter',
    labels: { reason: LAYER_FETCH_REASONS },
    help: 'layers fetched whole from the object store: read often, needed by a merge, or damaged on the disk',
  },
  layerPartsRead: {
    name: 'understory.pageserver.layer.parts',
    unit: '{request}',
    kind: 'counter',
    labels: {},
    help: 'requests to the object store for a part of a layer that has no file here',
  },
  openLayerSize: {
    name: 'understory.pageserver.open_layer.usage',
    unit: 'By',
    kind: 'gauge',
    labels: SHARD,
    help: 'WAL in memory that is in no layer yet',
  },
  uploads: {
    name: 'understory.pageserver.uploads',
    unit: '{upload}',
    kind: 'counter',
    labels: { outcome: ['done', 'failed'] },
    help: 'uploads of new layers and the index that names them',
  },
  uploadDuration: {
    name: 'understory.pageserver.upload.duration',
    unit: 's',
    kind: 'histogram',
    labels: {},
    help: 'one such upload that succeeded',
    edges: LONG_SECONDS,
  },
} as const satisfies MetricTable
