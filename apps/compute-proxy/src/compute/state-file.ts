/** The facts that a compute remembers over its own death; everything else is in storage. */
import { describeError, isErrorCode, keepUnknown, fail } from '@understory/base'
import { realDisk, replaceNow } from '@understory/env'
import { z } from 'zod'

/** A Postgres that the next life of this process may adopt. LSNs as text, the system identifier in decimal. */
const postgres = z.object({
  process: z.object({ pid: z.number().int(), startTime: z.string(), bootId: z.string() }),
  /** Under which it was streamed last. */
  term: z.number().int(),
  systemId: z.string(),
  pgTimelineId: z.number().int(),
  walSegmentBytes: z.number().int(),
  timelineStartLsn: z.string(),
  /** Where it began to write. */
  startLsn: z.string(),
  /** The same, where its files came from storage. */
  rebuiltAtLsn: z.string().optional(),
})
export type RememberedPostgres = z.infer<typeof postgres>

const state = z.object({
  version: z.literal(1),
  /** The timeline was bootstrapped here: initdb and import are done. */
  born: z.boolean(),
  /** TCP port of Postgres, the same over rebuilds so that clients find it again. */
  sqlPort: z.number().int(),
  /** The highest term that was asked for; 0 before the first. */
  term: z.number().int().nonnegative().default(0),
  /** Clients are served by it, as far as this process knows. */
  postgres: postgres.optional(),
})
export type RememberedState = z.infer<typeof state>

export const NOTHING_REMEMBERED: RememberedState = {
  version: 1,
  born: false,
  sqlPort: 0,
  term: 0,
}

/** Errors: `bad_file`. */
export async function readState(path: string): Promise<RememberedState> {
  const bytes = await realDisk.readFile(path).catch((error: unknown) => {
    if (isErrorCode(error, 'not_found')) return undefined
    throw error
  })
  if (bytes === undefined) return NOTHING_REMEMBERED
  try {
    const json: unknown = JSON.parse(Buffer.from(bytes).toString())
    return keepUnknown(json, state.parse(json))
  } catch (cause) {
    throw fail('bad_file', `file "${path}" is malformed`, {
      detail: describeError(cause),
      hint: 'Remove it: it is made again.',
      cause,
    })
  }
}

export class ComputeMemory {
  readonly #path: string
  #state: RememberedState

  constructor(path: string, state: RememberedState) {
    this.#path = path
    this.#state = state
  }

  get state(): RememberedState {
    return this.#state
  }

  /**
   * Durable when it returns: a term is remembered before it is sent to a safekeeper, without giving way to anything
   * else.
   */
  remember(change: Partial<RememberedState>): void {
    const next = { ...this.#state, ...change }
    const text = JSON.stringify(next)
    // A busy disk may take a second for what it has already.
    if (text !== JSON.stringify(this.#state)) replaceNow(this.#path, `${text}\n`)
    this.#state = next
  }
}
