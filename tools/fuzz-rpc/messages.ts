/**
 * Messages to send: bytes drawn at random, and messages as a peer would send them with some of their bytes or fields
 * changed. The same seed gives the same messages.
 */
import fc from 'fast-check'

/** The known facts of an RPC; the generated service definitions are of this kind. */
export interface Method {
  readonly path: string
  readonly requestStream: boolean
  readonly responseStream: boolean
  readonly requestSerialize: (message: never) => Buffer
  readonly requestDeserialize: (bytes: Buffer) => unknown
}

export interface Sample {
  readonly kind: 'bytes' | 'changed bytes' | 'changed fields'
  /** One message, or where the RPC takes a stream, some. */
  readonly messages: readonly Buffer[]
}

const DRAWN_BYTES_MAX = 400
const CHANGES_MAX = 4

interface Change {
  readonly what: number
  readonly at: number
  readonly bytes: Uint8Array
}

const change: fc.Arbitrary<Change> = fc.record({
  what: fc.nat({ max: 5 }),
  at: fc.nat(),
  bytes: fc.uint8Array({ minLength: 1, maxLength: 12 }),
})
const changes = fc.array(change, { minLength: 1, maxLength: CHANGES_MAX })
const fieldChanges = fc.array(fc.record({ at: fc.nat(), value: fc.nat() }), {
  minLength: 1,
  maxLength: CHANGES_MAX,
})

/** `count` samples of messages to the method, of which `seeds` are valid ones. */
export function drawSamples(
  method: Method,
  seeds: readonly (readonly Buffer[])[],
  count: number,
  seed: number,
): Sample[] {
  const base = fc.constantFrom(...seeds)
  const sample: fc.Arbitrary<Sample> = fc.oneof(
    fc
      .array(fc.uint8Array({ maxLength: DRAWN_BYTES_MAX }), {
        minLength: 1,
        maxLength: method.requestStream ? 3 : 1,
      })
      .map((drawn) => ({ kind: 'bytes' as const, messages: drawn.map((bytes) => Buffer.from(bytes)) })),
    fc.tuple(base, fc.nat(), changes).map(([messages, which, list]) => ({
      kind: 'changed bytes' as const,
      messages: replaceOne(messages, which, (bytes) => list.reduce(changeBytes, bytes)),
    })),
    fc.tuple(base, fc.nat(), fieldChanges).map(([messages, which, list]) => ({
      kind: 'changed fields' as const,
      messages: replaceOne(messages, which, (bytes) => changeFields(method, bytes, list)),
    })),
  )
  return fc.sample(sample, { numRuns: count, seed })
}

function replaceOne(
  messages: readonly Buffer[],
  which: number,
  replace: (bytes: Buffer) => Buffer,
): readonly Buffer[] {
  const index = which % messages.length
  return messages.map((bytes, i) => (i === index ? replace(bytes) : bytes))
}

function changeBytes(bytes: Buffer, { what, at, bytes: drawn }: Change): Buffer {
  const place = bytes.length === 0 ? 0 : at % bytes.length
  const [before, after] = [bytes.subarray(0, place), bytes.subarray(place)]
  switch (what) {
    case 0:
      return before
    case 1:
      return Buffer.concat([before, drawn, after])
    case 2:
      return Buffer.concat([before, after.subarray(drawn.length)])
    case 3:
      return Buffer.concat([before, after, after])
    case 4:
      return Buffer.concat([before, drawn, after.subarray(drawn.length)])
    default: {
      const flipped = Buffer.from(bytes)
      if (flipped.length > 0) flipped[place] = (flipped[place] as number) ^ (1 << (at & 7))
      return flipped
    }
  }
}

const BIGINTS = [0n, 1n, 15n, 2n ** 31n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 64n - 1n]
const NUMBERS = [0, 1, 2, 7, 16, 65_536, 2 ** 31 - 1, 2 ** 32 - 1]
const STRINGS = [
  '',
  '..',
  '../../etc/passwd',
  '0'.repeat(32),
  'f'.repeat(32),
  'x'.repeat(20_000),
  'a\0b',
  '\u202e\u{1f418}',
  'node/',
  '127.0.0.1:1',
]
const BYTES = [Buffer.alloc(0), Buffer.from('{}'), Buffer.alloc(70_000, 0xff), Buffer.alloc(9, 0x0b)]
const one = <T>(values: readonly T[], draw: number): T => values[draw % values.length] as T

/** The message with some of its fields taken to their limits; itself where it has none. */
function changeFields(
  method: Method,
  bytes: Buffer,
  list: readonly { readonly at: number; readonly value: number }[],
): Buffer {
  const message = structuredClone(method.requestDeserialize(bytes)) as Record<string, unknown>
  for (const { at, value } of list) {
    const fields = fieldsOf(message)
    if (fields.length === 0) break
    const { holder, name } = one(fields, at)
    holder[name] = changeValue(holder[name], value)
  }
  try {
    return method.requestSerialize(message as never)
  } catch {
    // A value that the encoder does not take cannot be sent either.
    return bytes
  }
}

function changeValue(value: unknown, draw: number): unknown {
  if (typeof value === 'bigint') return one(BIGINTS, draw)
  if (typeof value === 'number') return one(NUMBERS, draw)
  if (typeof value === 'boolean') return !value
  if (typeof value === 'string') return one(STRINGS, draw)
  if (value instanceof Uint8Array) return one(BYTES, draw)
  if (Array.isArray(value)) {
    return draw % 2 === 0 ? [] : Array.from({ length: 2 + (draw % 500) }, () => value as unknown[]).flat()
  }
  return undefined
}

interface Field {
  readonly holder: Record<string, unknown>
  readonly name: string
}

function fieldsOf(holder: Record<string, unknown>): Field[] {
  return Object.entries(holder).flatMap(([name, value]) => {
    // The name of a choice is not a field.
    if (name === '$case' || value === undefined) return []
    const own = holder['$case'] !== undefined && name === 'value' ? [] : [{ holder, name }]
    if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return own
    return [...own, ...fieldsOf(value as Record<string, unknown>)]
  })
}
