export * from './gen/understory/v1/broker.ts'
export * from './gen/understory/v1/common.ts'
export * from './gen/understory/v1/compute.ts'
export * from './gen/understory/v1/control.ts'
export * from './gen/understory/v1/pageserver.ts'
export * from './gen/understory/v1/safekeeper.ts'
export {
  DEADLINE_DEFAULT_MS,
  callClientStream,
  callServerStream,
  callUnary,
  createClient,
  openBidi,
} from './client.ts'
export type { BidiStream, CallOptions } from './client.ts'
export { PLAIN_CLIENT, PLAIN_SERVER, rpcContext } from './context.ts'
export type { ClientContext, RpcContext, ServerContext } from './context.ts'
export { isServing } from './health-client.ts'
export type { HealthCheck } from './health.ts'
export { bidiStream, clientStream, serverStream, service, startServer, unary } from './server.ts'
export { MESSAGE_BYTES_MAX } from './request-limits.ts'
export type { CallContext, Handlers, RpcServer, RpcService } from './server.ts'
export { isLoopback } from './exposure.ts'
export type { ObservedCall, Refusal, RpcObserver } from './observer.ts'
export { readSecurity } from './security.ts'
export type { ClientSecurity, Security, ServerSecurity } from './security.ts'
export {
  FOLLOW_VERSIONS,
  PROPOSE_VERSIONS,
  SUBSCRIBE_VERSIONS,
  agreeOnVersion,
  checkChosenVersion,
} from './protocol-version.ts'
export type { VersionRange } from './protocol-version.ts'
export { fromPeerError, fromServiceError, toPeerError, toServiceError } from './status.ts'
// Before the generated ones of the same names.
export { SafekeeperServiceClient, SafekeeperServiceService } from './wal-messages.ts'
