/**
 * Whether a store compares and swaps for real. Some that speak S3 ignore the conditions of a PUT, or look first and
 * write then, so that two writers both believe to have won: what rests on it (leases, documents) would be lost
 * silently.
 */
import { assert, fail } from '@understory/base'
import type { Rng } from '@understory/env'
import type { CallOptions, ConditionalPut, ObjectStore } from './store.ts'

const RACES_COUNT = 4
const RACERS_COUNT = 8

/** Throws `unsupported` unless conditional writes hold, alone and in a race. Leaves nothing. */
export async function probeConditionalPut(
  store: ObjectStore,
  rng: Rng,
  options?: CallOptions,
): Promise<void> {
  const key = `probe/${Buffer.from(rng.bytes(12)).toString('hex')}`
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(`probe of conditional writes: ${text}`)
  try {
    const first = await store.putIfAbsent(key, bytes('first'), options)
    assert(first.kind === 'stored', () => `a random key exists in ${store.description}`)
    expectConflict(store, await store.putIfAbsent(key, bytes('second'), options), 'If-None-Match')
    let { etag } = await store.get(key, options)
    const other = await store.put(key, bytes('other'), options)
    expectConflict(store, await store.putIfMatch(key, etag, bytes('stale'), options), 'If-Match')
    etag = other
    for (let race = 0; race < RACES_COUNT; race++) {
      const current = etag
      const outcomes = await Promise.all(
        Array.from({ length: RACERS_COUNT }, (_, racer) =>
          store.putIfMatch(key, current, bytes(`race ${race} of ${racer}`), options),
        ),
      )
      const stored = outcomes.filter((outcome) => outcome.kind === 'stored')
      const [winner] = stored
      if (winner === undefined) throw unsupported(store, 'If-Match with the current etag is refused')
      if (stored.length > 1)
        throw unsupported(store, `${stored.length} of ${RACERS_COUNT} concurrent If-Match won`)
      etag = winner.etag
    }
  } catch (error) {
    // What went wrong first says more than that nothing could be taken away after it.
    await store.delete([key], options).catch(() => undefined)
    throw error
  }
  await store.delete([key], options)
}

function expectConflict(store: ObjectStore, outcome: ConditionalPut, condition: string): void {
  if (outcome.kind !== 'conflict') throw unsupported(store, `PUT with ${condition} is not refused`)
}

function unsupported(store: ObjectStore, detail: string): Error {
  return fail('unsupported', `object store ${store.description} does not keep conditional writes`, {
    detail,
    hint: 'Use a store that does, such as AWS S3, MinIO or a local folder.',
  })
}
