/**
 * Where everything is in the object store. The program that writes an object and the one that removes it differ, and
 * agree by these functions alone; a change of a layout needs a reader of the old one.
 *
 *   wal/<tenant>/<timeline>/<segment>                      safekeepers: a whole segment, by Postgres's name of it
 *   wal/<tenant>/<timeline>/<segment>.partial.<end LSN>    its beginning, up to 16 hexadecimal digits
 *   wal/<tenant>/<timeline>/timeline.json                  what the timeline is, and its term history
 *   tenants/<tenant>/timelines/<timeline>/shard-<n>-of-<count>/<name>
 *                                                          pageservers: layers and index parts, named by libs/storage
 *   control/lead.json                                      control planes: which of them acts
 *   control/tenants/<tenant>.json                          what a tenant is, and which timelines it has
 *   control/timelines/<tenant>/<timeline>.json             what a timeline is, and what is requested of it
 *   control/names/<name>                                   which tenant has a name
 *   control/configurations/<timeline>.json                 what a compute was configured with by files
 */
import type { Lsn, ShardIdentity } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { walFileName } from '@understory/postgres/wal'
import type { TimelineRef } from '@understory/rpc'

const CONFIGURATIONS = 'control/configurations/'
const NAMES = 'control/names/'
export const LEADER_KEY = 'control/lead.json'
export const TENANT_DOCUMENTS_PREFIX = 'control/tenants/'
export const TIMELINE_DOCUMENTS_PREFIX = 'control/timelines/'

export const walPrefix = ({ tenantId, timelineId }: TimelineRef): string => `wal/${tenantId}/${timelineId}/`

export const walSegmentKey = (ref: TimelineRef, identity: PostgresIdentity, segment: number): string =>
  walPrefix(ref) + walFileName(identity.pgTimelineId, segment, identity.walSegmentBytes)

/** `endLsn` is in the segment or at its end. */
export const walPartialKey = (
  ref: TimelineRef,
  identity: PostgresIdentity,
  segment: number,
  endLsn: Lsn,
): string => `${walSegmentKey(ref, identity, segment)}.partial.${endLsn.toString(16).padStart(16, '0')}`

export const walTimelineKey = (ref: TimelineRef): string => `${walPrefix(ref)}timeline.json`

const layersPrefix = ({ tenantId, timelineId }: TimelineRef): string =>
  `tenants/${tenantId}/timelines/${timelineId}/`

/** A pageserver's local folders have the same layout. */
export const shardPrefix = (owner: TimelineRef & { readonly shard: ShardIdentity }): string =>
  `${layersPrefix(owner)}shard-${owner.shard.number}-of-${owner.shard.count}/`

/**
 * Everything that safekeepers and pageservers store of a timeline is stored below one of these, and nothing else does.
 */
export const timelinePrefixes = (ref: TimelineRef): readonly string[] => [walPrefix(ref), layersPrefix(ref)]

export const tenantDocumentKey = (tenantId: string): string => `${TENANT_DOCUMENTS_PREFIX}${tenantId}.json`
/** The tenant whose document has this key. */
export const tenantOfDocumentKey = (key: string): string =>
  key.slice(TENANT_DOCUMENTS_PREFIX.length).replace(/\.json$/, '')
export const timelineDocumentKey = ({ tenantId, timelineId }: TimelineRef): string =>
  `${TIMELINE_DOCUMENTS_PREFIX}${tenantId}/${timelineId}.json`
/** The timeline whose document has this key. */
export function timelineOfDocumentKey(key: string): TimelineRef {
  const [tenantId = '', file = ''] = key.slice(TIMELINE_DOCUMENTS_PREFIX.length).split('/')
  return { tenantId, timelineId: file.replace(/\.json$/, '') }
}
export const tenantNameKey = (name: string): string => NAMES + name
export const configurationKey = (timelineId: string): string => `${CONFIGURATIONS}${timelineId}.json`
