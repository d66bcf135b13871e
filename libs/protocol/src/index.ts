export { readTimelineRef, readShardRef } from './refs.ts'
export type { TimelineName } from './refs.ts'
export { readGeneration, readTerm } from './numbers.ts'
export { readPostgresIdentity } from './postgres-identity.ts'
export { readHistory, writeHistory } from './term-history.ts'
export { everyMember, rulesOf } from '@understory/consensus/driver'
export type { KnownMembership, Member } from '@understory/consensus/driver'
export {
  initialMembership,
  readMembers,
  readMembership,
  readSafekeeperAddresses,
  writeMembership,
} from './membership.ts'
export { checkSpec, decodeSpec, encodeSpec } from './compute-spec.ts'
export type { CheckedSpec } from './compute-spec.ts'
export {
  LEADER_KEY,
  TENANT_DOCUMENTS_PREFIX,
  TIMELINE_DOCUMENTS_PREFIX,
  configurationKey,
  shardPrefix,
  tenantDocumentKey,
  tenantNameKey,
  tenantOfDocumentKey,
  timelineDocumentKey,
  timelineOfDocumentKey,
  timelinePrefixes,
  walPartialKey,
  walPrefix,
  walSegmentKey,
  walTimelineKey,
} from './object-keys.ts'
export { SCRAM_ITERATIONS, parseScramVerifier } from './scram-verifier.ts'
export type { ScramVerifier } from './scram-verifier.ts'
