/** What a compute remembers over its own death; everything else is in storage. */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { describeError, refuse } from '@understory/base'
import { z } from 'zod'

const state = z.object({
  version: z.literal(1),
  /** The timeline was born here: initdb and import are done. */
  born: z.boolean(),
  /** TCP port of Postgres, the same over rebuilds so that clients find it again. */
  sqlPort: z.number().int(),
})
export type ComputeState = z.infer<typeof state>

export async function readState(path: string): Promise<ComputeState> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  })
  if (text === undefined) return { version: 1, born: false, sqlPort: 0 }
  try {
    return state.parse(JSON.parse(text))
  } catch (cause) {
    throw refuse('bad_file', `file "${path}" is malformed`, {
      detail: describeError(cause),
      hint: 'Remove it: it is made again.',
      cause,
    })
  }
}

export async function writeState(path: string, value: ComputeState): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(`${path}.new`, `${JSON.stringify(value)}\n`)
  await rename(`${path}.new`, path)
}
