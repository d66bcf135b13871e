export { appCommand } from './app-command.ts'
export { earlierCheckout, lastRelease } from './earlier-checkout.ts'
export { cacheRoot, cached } from './cache.ts'
export { selfSignedCertificate } from './certificate.ts'
export type { Certificate } from './certificate.ts'
export { temporaryDirectory } from './directory.ts'
export type { TemporaryDirectory, TemporaryDirectoryOptions } from './directory.ts'
export { helmMissing, helmProgram, prepareHelm } from './helm.ts'
export { checkManifests, kubernetesSchemasMissing } from './kubernetes-schemas.ts'
export { minioMissing, minioProgram, prepareMinio, startMinio } from './minio.ts'
export { startOtlpReceiver } from './otlp-receiver.ts'
export type {
  OtlpReceiver,
  ReceivedLog,
  ReceivedMetric,
  ReceivedPoint,
  ReceivedSpan,
} from './otlp-receiver.ts'
export { freePort } from './port.ts'
export { postgresBinaries } from './postgres-binaries.ts'
export type { PostgresBinaries, PostgresMajor } from './postgres-binaries.ts'
export { startPostgres } from './postgres.ts'
export type { PostgresOptions, PostgresServer, PostgresSettings } from './postgres.ts'
export { runCommand, startProcess } from './process.ts'
export type { ExitStatus, ProcessOptions, RunningProcess } from './process.ts'
export { PRIVATELY, PrivateNetwork, privateNetworkMissing } from './private-network.ts'
export type { Cut } from './private-network.ts'
export { findProgram } from './program.ts'
export { redisMissing, startRedis } from './redis.ts'
export type { RedisServer } from './redis.ts'
export type { S3Server } from './s3-server.ts'
export { s3ProxyMissing, startS3Proxy } from './s3proxy.ts'
export type { Service } from './service.ts'
export { TcpProxy } from './tcp-proxy.ts'
export { unprivilegedUser } from '@understory/env'
export type { UserIds } from '@understory/env'
export { TENANT_PASSWORD, tenantLogin } from './tenant-login.ts'
export { startCluster } from './cluster.ts'
export type { Cluster, ClusterNode, ClusterOptions, NodePlan } from './cluster.ts'
export {
  prepareVictoriaMetrics,
  startVictoriaMetrics,
  testRules,
  victoriaMetricsMissing,
} from './victoria-metrics.ts'
export type { VictoriaMetrics } from './victoria-metrics.ts'
