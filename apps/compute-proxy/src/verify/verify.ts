/**
 * Proves storage against the primary that writes it, without trusting either: every relation page at its own LSN while
 * the primary continues, and the rest byte for byte at a moment without a writer.
 */
import { CONTROL_FILE_PATH } from '@understory/postgres/cluster'
import type { VerifyResult } from '@understory/rpc'
import { compareAtBarrier } from './barrier.ts'
import { Catalog } from './catalog.ts'
import { Findings } from './findings.ts'
import type { VerifyOptions } from './options.ts'
import { PageSource } from './page-source.ts'
import { listRelationFiles, readWhole } from './relation-files.ts'
import { compareRelationPages, factsOfControl } from './relation-pages.ts'

/** Errors: `precondition` where writers leave no moment for the exact part, or what Postgres or storage says. */
export async function verifyTimeline(options: VerifyOptions): Promise<VerifyResult> {
  const findings = new Findings()
  const catalog = await Catalog.read(options)
  const control = await readWhole(options, CONTROL_FILE_PATH)
  using pages = new PageSource(options)
  const client = await options.connect(undefined)
  try {
    const { relations } = listRelationFiles(options.dataDirectory, options.major, findings)
    await compareRelationPages(options, relations, catalog, pages, client, factsOfControl(control), findings)
    const barrierLsn = await compareAtBarrier(options, catalog, pages, client, findings)
    return findings.result(barrierLsn)
  } finally {
    await client.end()
  }
}
