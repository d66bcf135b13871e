/**
 * A process that is measured, as JSON on its standard output:
 *
 *   node --expose-gc child.ts rest FOLDER NUMBERS PAGES    shards at rest, as they are on the disk
 *   node --expose-gc child.ts busy FOLDER SOURCE MAJOR     streams, merges, reads and attachments at once
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { assert } from '@understory/base'
import type { PostgresMajor } from '@understory/testcontainers'
import { measureBusy } from './busy.ts'
import { measureRest } from './rest.ts'

const [what, folder = '', first = '', second = ''] = process.argv.slice(2)
assert(globalThis.gc !== undefined, () => 'started without --expose-gc')
const delay = monitorEventLoopDelay({ resolution: 1 })
const figures =
  what === 'rest'
    ? await measureRest(folder, Number(first), Number(second), delay)
    : await measureBusy(folder, first, Number(second) as PostgresMajor, delay)
process.stdout.write(`${JSON.stringify(figures)}\n`)
process.exit(0)
