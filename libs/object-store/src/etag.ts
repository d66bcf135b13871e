/** The etag of backends that make their own: a hash of the content. */
import { createHash } from 'node:crypto'

export function contentEtag(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, 32)
}
