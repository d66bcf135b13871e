export { UnderstoryError, isErrorCode } from '@understory/base'
export type { ErrorCode } from '@understory/base'
export { createClient } from './client.ts'
export type {
  ClientOptions,
  CreateTenantOptions,
  DeleteOptions,
  FpwView,
  SafekeeperChangeView,
  SafekeeperWish,
  SafekeepersView,
  UnderstoryClient,
  VerifyProgress,
  WaitOptions,
} from './client.ts'
export { pageLsn } from './pages.ts'
export type { GetPagesOptions, PageAddress } from './pages.ts'
export type { WalPiece, WalTailOptions } from './wal-tail.ts'
export type {
  GetTimelineResponse,
  Node,
  Removal,
  Tenant,
  Timeline,
  TimelineRef,
  VerifyResult,
} from '@understory/rpc'
