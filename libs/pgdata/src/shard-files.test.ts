// Goal: a stream of files that breaks continues behind what was received, and not from its beginning. Method: a
// pageserver in memory whose streams break off, by table.
import { lsn, fail } from '@understory/base'
import type { ErrorCode, Lsn } from '@understory/base'
import { MemoryPageserver } from '@understory/protocol/clients/memory'
import type { ShardRef, StreamFilesResponse, TimelineRef } from '@understory/rpc'
import { expect, test } from 'vitest'
import { receiveShardFiles } from './shard-files.ts'
import type { PgdataSource } from './source.ts'

const AT = lsn(0x1000)
const SOURCE: PgdataSource = {
  rpc: { security: {} },
  timeline: { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) },
  postgres: { major: 17, systemId: 7n, pgTimelineId: 1, walSegmentBytes: 16 << 20 },
  pageservers: ['ps:1'],
  stripeBlocks: 8,
  safekeepers: ['sk:1'],
}

/** Where a stream ends with an error: behind so many messages. */
interface Break {
  readonly code: ErrorCode
  readonly behind: number
}

/**
 * Each stream sends "small", which has no place, and then 1 to 4 behind the place asked for; the first ones break off.
 */
class BreakingPageserver extends MemoryPageserver {
  readonly asked: string[] = []
  readonly #breaks: Break[]

  constructor(...breaks: readonly Break[]) {
    super('ps-1')
    this.#breaks = [...breaks]
  }

  override async *streamFiles(
    _timeline: TimelineRef,
    _shard: ShardRef,
    at: Lsn,
    after: Uint8Array,
  ): AsyncGenerator<StreamFilesResponse, void, void> {
    const place = Buffer.from(after).toString()
    expect(at).toBe(AT)
    this.asked.push(place)
    const end = this.#breaks.shift()
    const paths = ['small', ...['1', '2', '3', '4'].filter((path) => path > place)]
    for (const [i, path] of paths.entries()) {
      if (i === end?.behind) throw fail(end.code, 'broke off')
      const file = { path, offset: 0n, size: 0n, data: Buffer.alloc(0) }
      yield {
        piece: { $case: 'file', value: file },
        pagesTotal: i === 0 && place === '' ? 5n : 0n,
        place: Buffer.from(path === 'small' ? '' : path),
      }
    }
  }
}

/** Returns the pieces that arrive, and how often the stream broke. */
async function receive(
  pageserver: BreakingPageserver,
  take: (path: string) => void = () => undefined,
): Promise<{ readonly totals: number[]; readonly paths: string[]; readonly brokeCount: number }> {
  const totals: number[] = []
  const paths: string[] = []
  let brokeCount = 0
  const shard = { number: 0, client: pageserver, peer: 'ps-1' }
  await receiveShardFiles(SOURCE, shard, AT, {
    begins: (total) => totals.push(total),
    take: async (piece) => {
      const path = piece?.$case === 'file' ? piece.value.path : ''
      take(path)
      paths.push(path)
    },
    broke: () => brokeCount++,
  })
  return { totals, paths, brokeCount }
}

test('a stream that breaks continues behind the last place that was received', async () => {
  const pageserver = new BreakingPageserver(
    { code: 'unavailable', behind: 3 },
    { code: 'unknown_timeline', behind: 1 },
    { code: 'cancelled', behind: 2 },
  )
  expect(await receive(pageserver)).toEqual({
    totals: [5],
    paths: ['small', '1', '2', 'small', 'small', '3', 'small', '4'],
    brokeCount: 3,
  })
  expect(pageserver.asked).toEqual(['', '2', '2', '3'])
})

test('what does not pass by itself, and an error of who takes the files, end it at once', async () => {
  const damaged = new BreakingPageserver({ code: 'bad_page', behind: 2 })
  await expect(receive(damaged)).rejects.toMatchObject({ code: 'bad_page' })
  expect(damaged.asked).toEqual([''])
  const whole = new BreakingPageserver()
  const full = receive(whole, () => {
    throw fail('unavailable', 'of the disk')
  })
  await expect(full).rejects.toThrow('of the disk')
  expect(whole.asked).toEqual([''])
})
