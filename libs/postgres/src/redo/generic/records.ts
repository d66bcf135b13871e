/**
 * RM_GENERIC_ID: page changes of extensions that have no resource manager of their own. The data of each block is a
 * list of `{ u16 offset, u16 length, bytes }` to be written over the page. xl_info has no meaning.
 *
 * Source: access/transam/generic_xlog.c (16, 17, 18 alike).
 */
export const FRAGMENT_HEADER_BYTES = 4
