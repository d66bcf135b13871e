/** A batch whose entries do not fit one message. */

/** Of entries in one message. */
const FRAGMENT_BYTES_MAX = 4 * 1024 * 1024

/** Parts of a batch's entries for a message each, in order; one where there are none. They borrow. */
export function* fragmentsOf(entries: Uint8Array): Generator<Uint8Array, void, void> {
  let at = 0
  do {
    yield entries.subarray(at, at + FRAGMENT_BYTES_MAX)
    at += FRAGMENT_BYTES_MAX
  } while (at < entries.length)
}
