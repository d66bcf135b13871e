/** What a compute remembers over its own death; everything else is in storage. */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { describeError, keepUnknown, refuse } from '@understory/base'
import { diskError } from '@understory/env'
import { z } from 'zod'

const state = z.object({
  version: z.literal(1),
  /** The timeline was born here: initdb and import are done. */
  born: z.boolean(),
  /** TCP port of Postgres, the same over rebuilds so that clients find it again. */
  sqlPort: z.number().int(),
  /** The highest term that was asked for; 0 before the first. */
  term: z.number().int().nonnegative().default(0),
})
export type RememberedState = z.infer<typeof state>

export const NOTHING_REMEMBERED: RememberedState = {
  version: 1,
  born: false,
  sqlPort: 0,
  term: 0,
}

export async function readState(path: string): Promise<RememberedState> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  })
  if (text === undefined) return NOTHING_REMEMBERED
  try {
    const json: unknown = JSON.parse(text)
    return keepUnknown(json, state.parse(json))
  } catch (cause) {
    throw refuse('bad_file', `file "${path}" is malformed`, {
      detail: describeError(cause),
      hint: 'Remove it: it is made again.',
      cause,
    })
  }
}

/** Durable when it returns: a term is remembered before a safekeeper hears of it, without giving way to anything else. */
export function writeState(path: string, value: RememberedState): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    const file = openSync(`${path}.new`, 'w')
    try {
      writeSync(file, `${JSON.stringify(value)}\n`)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    renameSync(`${path}.new`, path)
    const folder = openSync(dirname(path), 'r')
    try {
      fsyncSync(folder)
    } finally {
      closeSync(folder)
    }
  } catch (error) {
    throw diskError(error, `write file "${path}"`)
  }
}
