export { createClient } from './client.ts'
export type {
  ClientOptions,
  CreateTenantOptions,
  FpwView,
  UnderstoryClient,
  VerifyProgress,
  WaitOptions,
} from './client.ts'
