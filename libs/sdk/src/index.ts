export { createClient } from './client.ts'
export type {
  ClientOptions,
  CreateTenantOptions,
  FpwView,
  SafekeeperChangeView,
  SafekeeperWish,
  SafekeepersView,
  UnderstoryClient,
  VerifyProgress,
  WaitOptions,
} from './client.ts'
