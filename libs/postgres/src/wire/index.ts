export { ReplicationConnection, ReplicationStream } from './replication.ts'
export type { BackupEvent, StreamMessage, SystemIdentity } from './replication.ts'
