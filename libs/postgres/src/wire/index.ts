export { ReplicationConnection, ReplicationStream } from './replication.ts'
export type { BackupEvent } from './replication.ts'
