/**
 * Versions of the long conversations between programs that are upgraded one after another, so that a rolling upgrade,
 * and the way back, never meets a peer that refuses it. The side that opens a conversation names the lowest and the
 * highest version that it speaks; the other side chooses the highest that both speak and names it in its first answer.
 *
 * A program from before the range sends no highest version and chooses none: it speaks its one version. A new version
 * is added to the upper end; the lower end moves only when no supported release speaks the old version any more.
 */
import { fail } from '@understory/base'

/** Both inclusive. */
export interface VersionRange {
  readonly min: number
  readonly max: number
}

/** Propose: the consensus conversation of a compute-proxy with a safekeeper. */
export const PROPOSE_VERSIONS: VersionRange = { min: 1, max: 1 }
/** SubscribeWal: the encoding of batches (docs/formats.md, shard stream). 2: a batch may go in several messages. */
export const SUBSCRIBE_VERSIONS: VersionRange = { min: 1, max: 2 }

/** FollowWal: subscriptions and their credit. Batches are those of version 2 of the shard stream. */
export const FOLLOW_VERSIONS: VersionRange = { min: 1, max: 1 }

/** The versions in an opening message. */
interface OfferedVersions {
  readonly protocolVersion: number
  /** 0 = `protocolVersion` is the only one. */
  readonly protocolVersionMax: number
}

/** The highest version that both sides speak. Errors: `unsupported` where there is none. */
export function agreeOnVersion(what: string, ours: VersionRange, offer: OfferedVersions): number {
  const { protocolVersion: min } = offer
  const max = offer.protocolVersionMax === 0 ? min : offer.protocolVersionMax
  const version = Math.min(max, ours.max)
  if (version >= min && version >= ours.min && min <= max) return version
  throw fail(
    'unsupported',
    `the peer speaks versions ${min} to ${max} of ${what}, this program ${ours.min} to ${ours.max}`,
    { hint: 'Upgrade one release at a time, so that neighbours have a version in common.' },
  )
}

/** The version that a first answer names; 0 is that of a program from before the range. Errors: `unsupported`. */
export function checkChosenVersion(what: string, ours: VersionRange, chosen: number): number {
  const version = chosen === 0 ? 1 : chosen
  if (version >= ours.min && version <= ours.max) return version
  throw fail(
    'unsupported',
    `the peer chose version ${version} of ${what}, this program speaks ${ours.min} to ${ours.max}`,
  )
}
