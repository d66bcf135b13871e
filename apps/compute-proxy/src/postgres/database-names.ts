/**
 * Names that the pages of pg_database have, without asking the server: to ask it, one must connect to a database by its
 * name, and none is sure to be there. Names that were dropped or never committed are among them: the user of a name
 * finds out.
 *
 * Source: pg_database.h (oid, datname are its first columns), htup_details.h, bufpage.h, itemid.h (16, 17, 18 alike).
 */
import { fail } from '@understory/base'
import { readWithin } from '@understory/env'
import { parseRelmap } from '@understory/postgres/cluster'
import {
  PAGE_SIZE,
  PageHeader,
  SizeOfPageHeaderData,
  isPageHeaderSane,
  pageOf,
} from '@understory/postgres/page'

const DatabaseRelationId = 1262
const NAMEDATALEN = 64
/** Of pg_database: some 200,000 databases. */
const RELATION_BYTES_MAX = 64 * 1024 * 1024
const OID_BYTES = 4
const LP_NORMAL = 1
const T_HOFF_OFFSET = 22

export async function databaseNames(pgdata: string): Promise<string[]> {
  const map = parseRelmap(await readGlobal(pgdata, 'pg_filenode.map'))
  const relation = await readGlobal(pgdata, String(map.get(DatabaseRelationId)))
  const names = new Set<string>()
  for (let at = 0; at + PAGE_SIZE <= relation.length; at += PAGE_SIZE) {
    for (const name of namesOnPage(relation.subarray(at, at + PAGE_SIZE))) names.add(name)
  }
  return [...names]
}

async function readGlobal(pgdata: string, name: string): Promise<Buffer> {
  const bytes = await readWithin(pgdata, `global/${name}`, { bytesMax: RELATION_BYTES_MAX })
  if (bytes === undefined) throw fail('bad_file', `the data directory has no file "global/${name}"`)
  return bytes
}

/** Of every tuple on a page of pg_database. */
export function namesOnPage(page: Uint8Array): string[] {
  const { view } = pageOf(page)
  if (!isPageHeaderSane({ bytes: page, view })) return []
  const names: string[] = []
  for (let at = SizeOfPageHeaderData; at + 4 <= PageHeader.lower.get(view, 0); at += 4) {
    const item = view.getUint32(at, true)
    const [offset, flags, length] = [item & 0x7fff, (item >>> 15) & 3, item >>> 17]
    if (flags !== LP_NORMAL || offset + length > PAGE_SIZE || length <= T_HOFF_OFFSET) continue
    const nameAt = (page[offset + T_HOFF_OFFSET] as number) + OID_BYTES
    if (nameAt + NAMEDATALEN > length) continue
    const bytes = page.subarray(offset + nameAt, offset + nameAt + NAMEDATALEN)
    const endAt = bytes.indexOf(0)
    if (endAt > 0) names.push(Buffer.from(bytes.subarray(0, endAt)).toString())
  }
  return names
}
