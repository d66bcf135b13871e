/** Counts in a local store by compare-and-swap, and notes each number it has made in an object of its own. */
import { realClock as clock, realRng as rng } from '@understory/env'
import { localObjectStore } from '@understory/object-store'

const [folder = '', stepsCount = ''] = process.argv.slice(2)
await using store = await localObjectStore(folder, { clock, rng })
for (let step = 0; step < Number(stepsCount);) {
  const { bytes, etag } = await store.get('counter')
  const next = String(Number(new TextDecoder().decode(bytes)) + 1)
  const outcome = await store.putIfMatch('counter', etag, new TextEncoder().encode(next))
  if (outcome.kind === 'conflict') continue
  // A number that two have made would be refused here.
  const noted = await store.putIfAbsent(`steps/${next}`, new Uint8Array(0))
  if (noted.kind === 'conflict') throw new Error(`number ${next} was made twice`)
  process.stdout.write('.')
  step++
}
