/** The parts that a service hands to the shell, and those that the shell hands to the service. */
import type { Broker } from '@understory/broker'
import type { Env, LogFields, LogLevel, OptionSpec, OptionValues } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'
import type { HealthCheck, RpcContext, RpcServer, RpcService } from '@understory/rpc'
import type { MetricTable, Telemetry } from '@understory/telemetry'
import type { StopRequest } from './stop-request.ts'

export interface HostPort {
  readonly host: string
  readonly port: number
}

/** The options of a service; the shell itself needs two. */
export type OptionTable = Readonly<Record<string, OptionSpec<unknown>>> & {
  readonly logLevel: OptionSpec<LogLevel>
  readonly metricsListen: OptionSpec<HostPort>
}

/** The name of a process, by its options. */
export interface ServiceIdentity {
  /** In logs, and as what it is announced. */
  readonly nodeId: string
  /** In telemetry, where that is not the node. */
  readonly instance?: string
  /** In every line of the log, besides the node. */
  readonly logFields?: LogFields
  /** The folder whose file system is watched by telemetry. */
  readonly dataDirectory?: string
}

/** The parts that the shell passes to `compose`. */
export interface Service<C extends OptionTable, M extends MetricTable> {
  readonly nodeId: string
  readonly values: OptionValues<C>
  readonly environment: NodeJS.ProcessEnv
  readonly env: Env
  readonly rpc: RpcContext
  /** Undefined where none is configured. */
  readonly telemetry: Telemetry<M> | undefined
  readonly stop: StopRequest
  openBroker(url: string): Broker
  /** Its operations are measured. */
  openStore(url: string): Promise<ObjectStore>
  /** `/metrics` shows these pages, too. */
  showPages(pages: () => Promise<readonly string[]>): void
}

/** The parts of a service, ready to serve. README.md has the order in which these are called. */
export interface Composition {
  readonly server: HostPort & {
    /** host:port under which others find it; by default where it listens. */
    readonly advertise?: string | undefined
    readonly healthListen?: HostPort | undefined
    readonly services: readonly RpcService[]
    readonly health?: HealthCheck
  }
  /** Where it is announced, as node of which kind. */
  readonly announce?: { readonly broker: Broker; readonly kind: string } | undefined
  /** The work before it is announced. Rejects `cancelled` where a stop was requested during it. */
  readonly prepare?: () => Promise<void>
  readonly begin?: (server: RpcServer) => void
  /** Fields of the event `started`, besides address and port of the metrics. */
  readonly startedFields?: () => LogFields
  /** Resolves with the exit code when the service is to stop; by default 0 when a stop is requested. */
  readonly run?: () => Promise<number>
  /** Ends the parts in their order, the server among them. `begin` may not have been called. */
  readonly stop: (stopServer: () => Promise<void>) => Promise<void>
  /** For calls under way when the server stops. */
  readonly stopGraceMs: number
}

export interface ServiceDefinition<C extends OptionTable, M extends MetricTable> {
  /** As in its variables and help: `safekeeper`. */
  readonly name: string
  /** As in telemetry: `understory-safekeeper`. */
  readonly telemetryName: string
  readonly config: C
  readonly metrics: M
  /** Errors: `bad_argument`. */
  readonly identity: (values: OptionValues<C>) => ServiceIdentity
}

export type Compose<C extends OptionTable, M extends MetricTable> = (
  service: Service<C, M>,
) => Promise<Composition>

/** The part of its process that a service sees. */
export interface ServiceProcess {
  readonly argv: readonly string[]
  readonly environment: NodeJS.ProcessEnv
  readonly stdout: { write(text: string): unknown }
  readonly stop: StopRequest
}

export interface RunnableService {
  /** Runs the service to its end; returns the exit code. Errors: the cause that keeps it from starting. */
  run(process: ServiceProcess): Promise<number>
}
