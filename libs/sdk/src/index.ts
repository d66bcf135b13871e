export { UnderstoryError, isErrorCode } from '@understory/base'
export type { ErrorCode } from '@understory/base'
export type {
  CallOptions,
  CreateTenantOptions,
  DeleteOptions,
  GetPagesOptions,
  PageAddress,
  PasswordOptions,
  SafekeeperRecovery,
  SafekeeperChangeRequest,
  UnderstoryClient,
  VerifyOptions,
  VerifyProgress,
  WaitForFullPageWritesOptions,
  WaitForSafekeepersOptions,
  WaitForSqlOptions,
  WaitOptions,
  WalPiece,
  WalTailOptions,
  WatchOptions,
} from './api.ts'
export { createClient } from './client.ts'
export { lsnPosition, lsnText, pageLsn } from './lsn.ts'
export type { ClientOptions, TlsOptions } from './options.ts'
export type { FpwView, SafekeeperChangeView, SafekeepersView } from './views.ts'
export { ComputeState } from '@understory/rpc'
export type {
  GetTimelineResponse,
  Node,
  Removal,
  Tenant,
  Timeline,
  TimelineRef,
  VerifyResult,
} from '@understory/rpc'
