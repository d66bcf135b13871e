/**
 * The calls of a client. LSNs go in and out as text (`16/B374D848`); a call fails with an `UnderstoryError`, whose
 * `code` says what kind of trouble it is and whose `hint` says what to do.
 */
import type {
  GetTimelineResponse,
  Node,
  Removal,
  Tenant,
  Timeline,
  TimelineRef,
  VerifyResult,
} from '@understory/rpc'
import type { FpwView, SafekeepersView } from './views.ts'

export interface CallOptions {
  /** Milliseconds that the call may take, with all its tries; the client's `deadlineMs` by default. */
  readonly deadlineMs?: number | undefined
  /** Ends the call with `cancelled`. */
  readonly signal?: AbortSignal | undefined
}

export interface WaitOptions {
  /** Milliseconds, or Infinity; two minutes by default. */
  readonly timeoutMs?: number | undefined
  readonly signal?: AbortSignal | undefined
  /** Called with one line whenever the state changed. */
  readonly onProgress?: ((line: string) => void) | undefined
}

export interface WatchOptions {
  readonly signal?: AbortSignal | undefined
}

export interface CreateTenantOptions {
  readonly name: string
  /** 16, 17 or 18; 17 by default. */
  readonly postgresMajor?: number | undefined
  readonly shardCount?: number | undefined
  readonly stripeBlocks?: number | undefined
  /** Records after which a page's chain is cut by an image. */
  readonly imageThresholdRecords?: number | undefined
  /** Postgres settings by which the tenant begins. */
  readonly settings?: Readonly<Record<string, string>> | undefined
  /** TCP port of Postgres; any free one by default. */
  readonly sqlPort?: number | undefined
  /** Of the role postgres: 8 to 128 printable ASCII characters without spaces; a random one by default. */
  readonly password?: string | undefined
  /** The same as a SCRAM-SHA-256 verifier, as in pg_authid. */
  readonly passwordVerifier?: string | undefined
  /** Whether its Postgres may be reached without TLS; false by default. */
  readonly allowPlaintext?: boolean | undefined
  /** The same id makes a repeated call return the first one's result; a new one for each call by default. */
  readonly requestId?: string | undefined
}

/** The password of a tenant's role postgres: a random password, unless one of the two is given. */
export interface PasswordOptions extends CallOptions {
  /** 8 to 128 printable ASCII characters without spaces. */
  readonly password?: string | undefined
  /** The same as a SCRAM-SHA-256 verifier, as in pg_authid. */
  readonly passwordVerifier?: string | undefined
}

export interface WaitForSqlOptions extends WaitOptions {
  /** Of the role postgres: becomes part of the connection string. */
  readonly password?: string | undefined
}

export interface DeleteOptions extends CallOptions {
  /** End its compute, where it has one; false by default. */
  readonly stopCompute?: boolean | undefined
}

export interface SafekeeperChangeRequest {
  /** Name or id; main by default. */
  readonly timeline?: string | undefined
  readonly add?: readonly string[] | undefined
  readonly remove?: readonly string[] | undefined
}

export interface SafekeeperRecovery {
  /** Name or id; main by default. */
  readonly timeline?: string | undefined
  /** The safekeeper that is left; none is left by default. */
  readonly node?: string | undefined
  readonly acceptLostCommits: boolean
}

export interface VerifyProgress {
  readonly pagesDone: number
  readonly pagesTotal: number
}

export interface VerifyOptions {
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((progress: VerifyProgress) => void) | undefined
}

export interface WaitForFullPageWritesOptions extends Omit<WaitOptions, 'onProgress'> {
  /** Called with the state at the beginning and at every change. */
  readonly onStep?: ((view: FpwView) => void) | undefined
}

export interface WaitForSafekeepersOptions extends Omit<WaitOptions, 'onProgress'> {
  /** Called with the state again and again. */
  readonly onStep?: ((view: SafekeepersView) => void) | undefined
}

/** A block of a relation, by the numbers that `pg_relation_filepath` shows: base/DATABASE/RELATION. */
export interface PageAddress {
  /** pg_class.relfilenode as `pg_relation_filenode(…)` gives it, not the oid. */
  readonly relation: number
  /** Oid of the database; 0 for relations that all databases share. */
  readonly database: number
  /** Oid of the tablespace; pg_default's by default. */
  readonly tablespace?: number | undefined
  /** main by default. */
  readonly fork?: 'main' | 'fsm' | 'vm' | 'init' | undefined
  readonly block: number
}

export interface GetPagesOptions extends CallOptions {
  /** Name or id; `main` by default. */
  readonly timeline?: string | undefined
  /**
   * Where in the WAL, such as `0/3A000148`; what the shards have ingested by default. A shard waits for WAL to come.
   */
  readonly lsn?: string | undefined
  /** W3C trace context of the caller's span: where the pageserver sends traces, its part joins that one. */
  readonly traceparent?: string | undefined
}

export interface WalTailOptions {
  /** Name or id; `main` by default. */
  readonly timeline?: string | undefined
  /** First byte, such as `0/3A000148`; the commit position at the start by default. */
  readonly fromLsn?: string | undefined
  /** Ends there; by default it continues until it is left or cancelled. */
  readonly toLsn?: string | undefined
  readonly signal?: AbortSignal | undefined
}

export interface WalPiece {
  /** Position of the first byte. */
  readonly startLsn: string
  /** One past the last. */
  readonly endLsn: string
  readonly bytes: Buffer
}

export interface UnderstoryClient extends Disposable {
  /**
   * `password` is the random one, which is kept nowhere: it is returned this once. Undefined where the caller chose it,
   * and where the first answer was lost or the tenant was made by an earlier call: `setTenantPassword` sets a new one.
   */
  createTenant(
    tenant: CreateTenantOptions,
    options?: CallOptions,
  ): Promise<{
    readonly tenant: Tenant
    readonly timeline: TimelineRef
    readonly password: string | undefined
  }>
  /**
   * Sets the password of the tenant's role postgres and returns once that is stored (`waitForPassword`); connections
   * that are open stay. Returns the random one, undefined where the caller chose it.
   */
  setTenantPassword(tenant: string, options?: PasswordOptions): Promise<string | undefined>
  /** Ends when the tenant's Postgres has the password that was set last. */
  waitForPassword(tenant: string, options?: WaitOptions): Promise<void>
  /** Every tenant, by name; asks for more as the loop proceeds. */
  listTenants(options?: CallOptions): AsyncGenerator<Tenant, void, void>
  /** By name or id. */
  getTenant(tenant: string, options?: CallOptions): Promise<Tenant>
  /**
   * The tenant is not found from then on and its name is free; what there is of it is removed after that
   * (`waitForRemoval`). Refused `precondition` while it has a compute, unless that is to be ended.
   */
  deleteTenant(tenant: string, options?: DeleteOptions): Promise<void>
  listTimelines(tenant: string, options?: CallOptions): Promise<readonly Timeline[]>
  /** As `deleteTenant`. */
  deleteTimeline(tenant: string, timeline: string, options?: DeleteOptions): Promise<void>
  /** Deleted timelines of which something is left, and the nodes that are waited for. */
  listRemovals(options?: CallOptions): Promise<readonly Removal[]>
  /**
   * Ends when nothing is left of any deleted timeline of the tenant, which is named by id or by the name that it had;
   * at once where nothing of it was deleted.
   */
  waitForRemoval(tenant: string, options?: WaitOptions): Promise<void>
  /** With the state of everything that serves it. */
  getTimeline(tenant: string, timeline?: string, options?: CallOptions): Promise<GetTimelineResponse>
  /** Ends when the tenant's Postgres takes SQL; returns its connection string, as psql takes it. */
  waitForSql(tenant: string, options?: WaitForSqlOptions): Promise<string>
  /** Asks for the switch and returns at once. */
  switchFullPageWrites(tenant: string, wanted: 'on' | 'off', options?: CallOptions): Promise<FpwView>
  getFullPageWrites(tenant: string, options?: CallOptions): Promise<FpwView>
  /**
   * The state of the switch, and again at every change, until it is left or cancelled. A control plane that goes away
   * in the meantime is waited for, up to a minute.
   */
  watchFullPageWrites(tenant: string, options?: WatchOptions): AsyncGenerator<FpwView, void, void>
  /** Ends when the switch has reached what is wanted; throws `timeout` with the reason where it does not get there. */
  waitForFullPageWrites(tenant: string, options?: WaitForFullPageWritesOptions): Promise<FpwView>
  /** Compares every page that Postgres has written with what storage gives. */
  verifyTimeline(tenant: string, timeline?: string, options?: VerifyOptions): Promise<VerifyResult>
  /** Begins a change and returns at once; the same request again changes nothing. */
  changeSafekeepers(
    tenant: string,
    request: SafekeeperChangeRequest,
    options?: CallOptions,
  ): Promise<SafekeepersView>
  /** Cancels the change that is under way; `precondition` where it is too late. */
  cancelSafekeeperChange(tenant: string, timeline?: string, options?: CallOptions): Promise<SafekeepersView>
  /**
   * Makes `node` the only safekeeper that counts, where the majority is lost for good: commits that it does not have
   * are lost. Without a node none is left, and others continue with what the object store has. Refused `precondition`
   * while there is more to continue with.
   */
  recoverSafekeepers(
    tenant: string,
    recovery: SafekeeperRecovery,
    options?: CallOptions,
  ): Promise<SafekeepersView>
  getSafekeepers(tenant: string, timeline?: string, options?: CallOptions): Promise<SafekeepersView>
  /** Ends when the last change is done; throws `timeout` with the reason where it does not get there. */
  waitForSafekeepers(
    tenant: string,
    timeline?: string,
    options?: WaitForSafekeepersOptions,
  ): Promise<SafekeepersView>
  listNodes(options?: CallOptions): Promise<readonly Node[]>
  /** One block of a relation as it was at an LSN: 8,192 bytes, or undefined where none was written yet. */
  getPage(tenant: string, page: PageAddress, options?: GetPagesOptions): Promise<Buffer | undefined>
  /** Many at once, in the order asked for. */
  getPages(
    tenant: string,
    pages: readonly PageAddress[],
    options?: GetPagesOptions,
  ): Promise<(Buffer | undefined)[]>
  /** Committed WAL as it comes. Leaving the loop ends it. */
  tailWal(tenant: string, options?: WalTailOptions): AsyncGenerator<WalPiece, void, void>
  /** Ends what is under way with `cancelled` and closes the connections. */
  close(): void
}
