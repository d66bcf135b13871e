/** The figures of scale: the shape of `--json`, and the tables for people. */
import { renderAims, renderMachine, renderTable, shown } from '../storage/report.ts'
import type { Aim, Machine } from '../storage/report.ts'
import type { BusyFigures } from './busy.ts'
import type { MapFigures } from './map.ts'
import type { RestFigures } from './rest.ts'
import type { StartFigures } from './start.ts'

export interface SizeFigures extends RestFigures {
  /** Of pages. */
  readonly logicalBytes: number
  readonly layerBytes: number
  readonly makeSeconds: number
}

export interface ScaleReport {
  readonly machine: Machine
  readonly settings: Readonly<Record<string, number | string>>
  readonly map: MapFigures | undefined
  readonly sizes: readonly SizeFigures[]
  readonly timelines: readonly RestFigures[]
  readonly start: StartFigures | undefined
  readonly busy: BusyFigures | undefined
}

const MIB = 2 ** 20
const AIMS = {
  lookUpUs: 5,
  residentMebibytesPerTerabyte: 1024,
  layersTouched: 8,
  listeningMs: 2_000,
  firstPageMs: 200,
  loopDelayMs: 50,
  idleShardKibibytes: 32,
}

/** MiB for each 10^12 bytes of pages. */
export const residentPerTerabyte = ({ residentBytes, logicalBytes }: SizeFigures): number =>
  (residentBytes * 1e12) / MIB / logicalBytes
export const kibibytesPerShard = ({ residentBytes, shards }: RestFigures): number =>
  residentBytes / 1024 / shards

export function aimsOf({ map, sizes, timelines, start, busy }: ScaleReport): Aim[] {
  const aims: Aim[] = []
  const limit = (name: string, measured: number, aim: number, unit: string): void =>
    void aims.push({ name, measured, aim, unit, isLimit: true })
  if (map !== undefined) limit(`look-up in a map of ${map.layers} layers`, map.lookUpUs, AIMS.lookUpUs, 'us')
  // The largest says most: fixed costs weigh least in it.
  const largest = sizes.at(-1)
  if (largest !== undefined)
    limit(
      `resident for a TB of pages, at ${gigabytes(largest)} GB`,
      residentPerTerabyte(largest),
      AIMS.residentMebibytesPerTerabyte,
      'MiB',
    )
  const most = timelines.at(-1)
  if (most !== undefined)
    limit(`idle shard, of ${most.shards}`, kibibytesPerShard(most), AIMS.idleShardKibibytes, 'KiB')
  if (start !== undefined) {
    const what = `${start.shards} shards, ${start.layers} layers`
    limit(`start to listening, ${what}`, start.listeningMs, AIMS.listeningMs, 'ms')
    limit(`first page after that, ${what}`, start.firstPageMs, AIMS.firstPageMs, 'ms')
  }
  if (busy !== undefined) {
    limit('longest block of the event loop', busy.loopDelay.maxMs, AIMS.loopDelayMs, 'ms')
    limit('layers touched by a read, p99', busy.touched.asked.p99, AIMS.layersTouched, 'layers')
  }
  return aims
}

const gigabytes = ({ logicalBytes }: SizeFigures): string => shown(logicalBytes / 1e9)

export function renderScale(report: ScaleReport): string {
  const { map, sizes, timelines, start, busy } = report
  const parts = [renderMachine(report.machine)]
  if (map !== undefined) {
    const { layers, levels, lookUpUs, pushMs } = map
    const costs = `look-up ${shown(lookUpUs)} us, one more layer ${shown(pushMs)} ms`
    parts.push(`a map of ${layers} layers in ${levels} levels: ${costs}`)
  }
  if (sizes.length > 0) {
    const rows = sizes.map((one) => [
      gigabytes(one),
      String(one.shards),
      String(one.layers),
      shown(one.layerBytes / 1e6),
      ...restCells(one),
      shown(residentPerTerabyte(one)),
      shown(one.blockCacheBytes / MIB),
    ])
    const heads = ['GB of pages', 'shards', 'layers', 'MB stored', ...REST_HEADS, 'MiB a TB', 'MiB cache']
    parts.push(renderTable(heads, rows))
  }
  if (timelines.length > 0) {
    const rows = timelines.map((one) => [
      String(one.shards),
      String(one.layers),
      ...restCells(one),
      shown(kibibytesPerShard(one)),
    ])
    parts.push(renderTable(['timelines', 'layers', ...REST_HEADS, 'KiB a shard'], rows))
  }
  if (start !== undefined) parts.push(renderStart(start))
  if (busy !== undefined) parts.push(renderBusy(busy))
  parts.push(renderAims(aimsOf(report)))
  return parts.join('\n')
}

const REST_HEADS = ['load s', 'loop ms', 'first page ms', 'page us p50', 'p99', 'MiB resident', 'RSS']
const restCells = (figures: RestFigures): string[] => [
  shown(figures.loadSeconds),
  shown(figures.loopDelay.maxMs),
  shown(figures.firstPageMs),
  shown(figures.pageP50Us),
  shown(figures.pageP99Us),
  shown(figures.residentBytes / MIB),
  shown(figures.rssBytes / MIB),
]

function renderStart({ shards, layers, listeningMs, firstPageMs, rssMebibytes }: StartFigures): string {
  const times = `listens after ${shown(listeningMs)} ms, first page ${shown(firstPageMs)} ms later`
  return `a pageserver with ${shards} shards, ${layers} layers: ${times}, ${rssMebibytes} MiB`
}

function renderBusy(busy: BusyFigures): string {
  const { loopDelay, touched } = busy
  const delays = `p99.9 ${shown(loopDelay.p999Ms)} ms, p99 ${shown(loopDelay.p99Ms)} ms`
  return [
    `${shown(busy.walMegabytes)} MB of WAL in ${shown(busy.seconds)} s, ${busy.generatedImages} images,`,
    `  ${busy.layersMade} layers made, ${busy.layersLeft} left; beside it`,
    `  ${busy.streams} streams of all files, ${shown(busy.streamedMegabytes)} MB, ${busy.attachments} attachments,`,
    `  ${busy.reads} page reads, p99 ${shown(busy.readP99Us)} us`,
    `  event loop: longest block ${shown(loopDelay.maxMs)} ms, ${delays}`,
    `  layers asked by a read: p50 ${touched.asked.p50}, p99 ${touched.asked.p99}, max ${touched.asked.max}`,
    '',
  ].join('\n')
}
