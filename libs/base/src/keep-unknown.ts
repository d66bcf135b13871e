/**
 * Documents outlive programs: during a rolling upgrade, and after the way back, a program reads what a newer one wrote
 * and writes it again. What it does not know has to be in what it writes. Hence every stored document obeys two rules:
 *
 * - fields are added, never given another meaning; a reader keeps those that it does not know (`keepUnknown`);
 * - where an older reader would do harm, the writer sets `minReader` beyond `DOCUMENT_READER` of the programs before
 *   it, and these refuse the document.
 */

/** The highest `minReader` of a document that this program may change. */
export const DOCUMENT_READER = 1

/**
 * `parsed`, a checked copy of `raw` without its unknown fields, with those fields again, at every depth. Elements of
 * lists belong together by position: `parsed` must have as many as `raw`.
 */
export function keepUnknown<T>(raw: unknown, parsed: T): T {
  if (Array.isArray(raw) && Array.isArray(parsed)) {
    return parsed.map((item, index) => keepUnknown(raw[index], item as unknown)) as T
  }
  if (!isObject(raw) || !isObject(parsed)) return parsed
  const known = Object.entries(parsed).map(([name, value]) => [name, keepUnknown(raw[name], value)] as const)
  return { ...raw, ...Object.fromEntries(known) } as T
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
