/** Counted uint64 fields. They stay far below 2^53; what is beyond could be stored, and never be sent again. */
import { fail } from '@understory/base'

function readCount(what: string, value: bigint): number {
  if (value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value)
  throw fail('bad_argument', `${what} ${value} is out of range`)
}

/** Errors: `bad_argument`. */
export const readTerm = (term: bigint): number => readCount('term', term)
/** Of a membership, or of a request for image generation. Errors: `bad_argument`. */
export const readGeneration = (what: string, generation: bigint): number =>
  readCount(`${what} generation`, generation)
