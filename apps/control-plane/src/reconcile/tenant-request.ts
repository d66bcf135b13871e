/** The request for a tenant, the checks that refuse it, and the first document that it becomes. */
import { hexId, parseNodeId, fail } from '@understory/base'
import type { Clock, Rng } from '@understory/env'
import { readPostgresMajor } from '@understory/postgres/cluster'
import type { TenantDocument } from '../documents/tenant-document.ts'
import { FPW_INITIAL } from '../documents/timeline-document.ts'
import type { PasswordRequest } from './password.ts'

export interface TenantRequest extends PasswordRequest {
  readonly name: string
  readonly postgresMajor: number
  readonly shardCount: number
  readonly stripeBlocks: number
  readonly imageThresholdRecords: number
  readonly settings: Readonly<Record<string, string>>
  readonly sqlPort: number
  readonly requestId: string
  readonly allowsPlaintext: boolean
}

/** With one timeline, "main", which begins under a new id. */
export function newTenant(
  request: TenantRequest,
  verifier: string,
  { clock, rng }: { readonly clock: Clock; readonly rng: Rng },
): TenantDocument {
  const newId = (): string => hexId(rng.bytes(16))
  return {
    version: 2,
    minReader: 1,
    epoch: 0,
    tenantId: newId(),
    name: request.name,
    requestId: request.requestId,
    postgresMajor: request.postgresMajor,
    shardCount: request.shardCount,
    stripeBlocks: request.stripeBlocks,
    imageThresholdRecords: request.imageThresholdRecords,
    settings: { ...request.settings },
    allowsPlaintext: request.allowsPlaintext,
    password: { verifier, generation: 1 },
    createdAtS: Math.floor(clock.wallMs() / 1_000),
    removals: [],
    isDeleted: false,
    timelines: [
      { timelineId: newId(), name: 'main', beginning: { sqlPort: request.sqlPort, fpw: FPW_INITIAL } },
    ],
  }
}

/** Errors: `bad_argument`, `unsupported`. */
export function checkTenantRequest(request: TenantRequest): void {
  parseNodeId(request.name)
  const within = (what: string, value: number, min: number, max: number): void => {
    if (value < min || value > max)
      throw fail('bad_argument', `${what} ${value} is not within ${min} to ${max}`)
  }
  readPostgresMajor(request.postgresMajor)
  within('shard count', request.shardCount, 1, 256)
  within('stripe', request.stripeBlocks, 1, 2 ** 20)
  within('image threshold', request.imageThresholdRecords, 1, 10_000)
  within('sql port', request.sqlPort, 0, 65_535)
  within('length of the request id', request.requestId.length, 0, REQUEST_ID_LENGTH_MAX)
  const settingsLength = Object.entries(request.settings).reduce(
    (sum, pair) => sum + pair.join('=').length,
    0,
  )
  within('length of all settings together,', settingsLength, 0, SETTINGS_LENGTH_MAX)
  for (const [name, value] of Object.entries(request.settings)) {
    if (!SETTING_NAME.test(name)) throw fail('bad_argument', `"${name}" is not the name of a setting`)
    // It is written within quotes on one line of a file.
    if (CONTROL_CHARACTER.test(value))
      throw fail('bad_argument', `the value of setting "${name}" has a control character`)
    if (MANAGED_SETTINGS.has(name.toLowerCase())) {
      throw fail('bad_argument', `setting "${name}" is managed by Understory`, {
        hint: name === 'full_page_writes' ? 'Use `understory tenant fpw`.' : 'Leave it out.',
      })
    }
  }
}

/** In characters: they are in the tenant's document, which every look at the tenant reads. */
const SETTINGS_LENGTH_MAX = 64 * 1024
const REQUEST_ID_LENGTH_MAX = 256

/** As guc.c of PostgreSQL takes them: valid_custom_variable_name. */
const SETTING_NAME = /^[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)*$/
// oxlint-disable-next-line no-control-regex -- that is what it is for
const CONTROL_CHARACTER = /[\x00-\x1f\x7f]/

/**
 * The settings that durability rests on, or that the compute fills in itself (docs/architecture.md, "Life of a
 * compute").
 */
const MANAGED_SETTINGS: ReadonlySet<string> = new Set([
  'full_page_writes',
  'fsync',
  'synchronous_standby_names',
  'restart_after_crash',
  'archive_mode',
  'port',
  'listen_addresses',
  'unix_socket_directories',
  'hba_file',
  'data_directory',
  'primary_conninfo',
])
