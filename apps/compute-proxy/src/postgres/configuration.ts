/**
 * The settings of Postgres. They come from three places, by who may change them:
 *
 * - the command line: what I1 and I4 rest on, which no configuration file can override;
 * - pg_hba.managed.conf: the gate. Closed, only the proxy's own role on its socket gets in; open, the timeline's own
 *   pg_hba.conf decides, except that no client but the proxy may replicate (Postgres would send WAL no quorum has), and
 *   that none may come without TLS where the tenant does not allow it;
 * - the configuration files in PGDATA, certificate and key among them: the user's. They are not in WAL, so they are
 *   kept beside and put back (configuration-store.ts).
 */
import { basename, join, relative } from 'node:path'
import { replaceWithin } from '@understory/env'
import type { Env } from '@understory/env'
import type { TrackerState } from '@understory/postgres/cluster'
import type { CheckedSpec } from '@understory/protocol'
import { serverCertificate } from './certificate.ts'
import type { ServerCertificate } from './certificate.ts'
import { CONFIGURATION_FILES, pairStateOf, readConfigurationFile } from './configuration-store.ts'
import type { ConfigurationSnapshot } from './configuration-store.ts'
import type { InstalledFiles, Launcher } from './launcher.ts'
import type { ComputeFiles } from './layout.ts'

/** The proxy's own role: made at bootstrap, superuser, let in by socket alone. */
export const PROXY_ROLE = 'understory'
/** How Postgres is reached from outside. */
export interface SqlFront {
  readonly listenAddresses: string
  /** In connection strings. */
  readonly host: string
}

/** Name of the standby and of its slot. */
export const STANDBY_NAME = 'understory'

const WAL_LEVELS = ['replica', 'logical']
/** The proxy's own stream and a base backup of its own; the same number of slots. */
const WAL_SENDERS_MIN = 4

/** The least values that a start of these files needs: settings that WAL or prepared transactions were made under. */
export interface SettingFloors {
  readonly max_connections: number
  readonly max_worker_processes: number
  readonly max_wal_senders: number
  readonly max_prepared_transactions: number
  readonly max_locks_per_transaction: number
}

/** CheckRequiredParameterValues (xlog.c) asks them of a standby; prepared transactions of any start. */
export const floorsOf = (state: Readonly<TrackerState>): SettingFloors => ({
  max_connections: state.maxConnections,
  max_worker_processes: state.maxWorkerProcesses,
  max_wal_senders: state.maxWalSenders,
  max_prepared_transactions: state.maxPreparedXacts,
  max_locks_per_transaction: state.maxLocksPerXact,
})

/** As of a new cluster, where the user's files say nothing. Source: guc_tables.c (16, 17, 18). */
const SETTING_DEFAULTS = {
  max_connections: 100,
  max_worker_processes: 8,
  max_wal_senders: 10,
  max_prepared_transactions: 0,
  max_locks_per_transaction: 64,
  max_replication_slots: 10,
} as const

/**
 * Arguments of `postgres`: nothing that the storage, or the proxy's own way in, rests on is left to the user's files.
 * `user` returns the values in those; `floors` is undefined for a cluster that was made a moment ago. Where Postgres
 * ended by itself at the last start (`isSuspect`), it is not to look for certificates that may have been lost with a
 * disk: it uses the pair that is kept.
 */
export function postgresArguments(
  files: ComputeFiles,
  {
    port,
    listenAddresses,
    isSuspect,
  }: { readonly port: number; readonly isSuspect: boolean } & Pick<SqlFront, 'listenAddresses'>,
  major: number,
  user: (name: string) => string | undefined,
  floors?: SettingFloors,
): string[] {
  const walLevel = user('wal_level')
  const settings: Readonly<Record<string, string>> = {
    port: String(port),
    listen_addresses: listenAddresses,
    // Postgres works in its data directory; the whole path may be longer than that of a socket can be.
    unix_socket_directories: relative(files.pgdata, files.sockets),
    // The folder itself lets in the owner of the server alone.
    unix_socket_permissions: '0777',
    unix_socket_group: '',
    hba_file: files.hba,
    // A line in the user's postgresql.conf would win over -D, and other files would not be kept.
    data_directory: files.pgdata,
    ident_file: join(files.pgdata, 'pg_ident.conf'),
    external_pid_file: '',
    // Durability is the quorum's, not the local disk's.
    fsync: 'off',
    restart_after_crash: 'off',
    synchronous_standby_names: STANDBY_NAME,
    archive_mode: 'off',
    wal_level: walLevel !== undefined && WAL_LEVELS.includes(walLevel) ? walLevel : 'replica',
    // A slot that is invalidated would be the end of the stream.
    max_slot_wal_keep_size: '-1',
    // full_page_writes is switched by it.
    ...(major >= 17 ? { allow_alter_system: 'on' } : {}),
    // Logical slots with `failover` send nothing that the quorum does not have (walsender.c NeedToWaitForStandbys).
    ...(major >= 17 ? { synchronized_standby_slots: STANDBY_NAME } : {}),
    ...raisedSettings(user, floors),
    ...(isSuspect ? KEPT_CERTIFICATE : {}),
  }
  return [
    '-D',
    files.pgdata,
    ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ]
}

/** As of a new cluster. Source: guc_tables.c (16, 17, 18). */
const KEPT_CERTIFICATE = {
  ssl_cert_file: 'server.crt',
  ssl_key_file: 'server.key',
  ssl_ca_file: '',
  ssl_crl_file: '',
  ssl_crl_dir: '',
}

/** The settings of which the user's files ask for less than is needed. */
function raisedSettings(
  user: (name: string) => string | undefined,
  floors: SettingFloors | undefined,
): Record<string, string> {
  const needed = {
    ...floors,
    max_wal_senders: Math.max(WAL_SENDERS_MIN, floors?.max_wal_senders ?? 0),
    max_replication_slots: WAL_SENDERS_MIN,
  }
  const raised: Record<string, string> = {}
  for (const [name, least] of Object.entries(needed)) {
    const asked = Number(user(name) ?? SETTING_DEFAULTS[name as keyof typeof SETTING_DEFAULTS])
    // A value that is not a number is left to Postgres to refuse, unless the storage needs one.
    if (!(asked >= least)) raised[name] = String(least)
  }
  return raised
}

const HBA_HEAD = `# Written by compute-proxy. Change pg_hba.conf in the data directory instead.
local all         ${PROXY_ROLE} trust
local replication ${PROXY_ROLE} trust
`
const HBA_CLOSED = `${HBA_HEAD}local all all reject
host  all all 0.0.0.0/0 reject
host  all all ::/0 reject
`
/** Before the proxy's role is made: only this machine's own processes can reach the socket. */
const HBA_BOOTSTRAP = `local all postgres trust
${HBA_CLOSED}`
const hbaOpen = (files: ComputeFiles, requireTls: boolean): string => `${HBA_HEAD}local replication all reject
host  replication all 0.0.0.0/0 reject
host  replication all ::/0 reject
${requireTls ? 'hostnossl all all all reject\n' : ''}include "${join(files.pgdata, 'pg_hba.conf')}"
`

/**
 * pg_hba.conf by which a timeline begins: a password is asked of every client that comes by TCP. The socket is in a
 * folder that only Postgres's own user can enter.
 */
export const FIRST_RULES = `local all all trust
host all all all scram-sha-256
`

/** A user may change them: those who come without TLS are refused by the gate, not by these. */
const FIRST_SETTINGS = { ssl: 'on' }

export type Gate = 'bootstrap' | 'closed' | 'open'

interface GateParts {
  readonly spec: CheckedSpec
  readonly launcher: Pick<Launcher, 'access'>
}

/** Only this process may write it, and only Postgres's user has to read it. */
export function writeGate(files: ComputeFiles, gate: Gate, { launcher, spec }: GateParts): void {
  const rules = { bootstrap: HBA_BOOTSTRAP, closed: HBA_CLOSED, open: hbaOpen(files, spec.requireTls) }
  const { owner } = launcher.access
  const group = owner === undefined ? undefined : { uid: process.geteuid?.() ?? 0, gid: owner.gid }
  replaceWithin(files.orders, basename(files.hba), rules[gate], group, 0o640)
}

interface SeedOptions {
  /** By which the timeline began. */
  readonly settings: Readonly<Record<string, string>>
  /** Used where no pair of certificate and key is kept. */
  readonly certificate: ServerCertificate
}

/** The parts of a first configuration. */
interface SeedParts extends Pick<Env, 'clock' | 'rng'> {
  readonly spec: CheckedSpec
  readonly front: SqlFront
}

/** By which a timeline begins, with a certificate that is new each time. */
export const seedOf = ({ spec, front, clock, rng }: SeedParts): SeedOptions => ({
  settings: spec.settings,
  certificate: serverCertificate(spec.timeline.timelineId, front.host, { clock, rng }),
})

interface RestoreOptions extends SeedOptions {
  readonly fullPageWrites: 'on' | 'off'
}

/**
 * The files of a new PGDATA, with full_page_writes as it is wanted now. A file that was never kept is as
 * the timeline began. Certificate and key are the newest that fit together: on others Postgres would not start.
 */
export function restoredConfiguration(
  kept: ConfigurationSnapshot | undefined,
  { settings, certificate, fullPageWrites }: RestoreOptions,
): InstalledFiles {
  const beginnings: Readonly<Record<string, string>> = {
    'postgresql.auto.conf': withSettings('', { ...FIRST_SETTINGS, ...settings }),
    'pg_hba.conf': FIRST_RULES,
    ...filesOf(certificate),
  }
  const pair = [kept?.files, kept?.soundFiles].find((some) => pairStateOf(some) === 'whole')
  const restored = CONFIGURATION_FILES.map((name): [string, string | Buffer] => {
    const from = name === 'server.crt' || name === 'server.key' ? pair : kept?.files
    const content = from?.get(name) ?? Buffer.from(beginnings[name] ?? '')
    const isAuto = name === 'postgresql.auto.conf'
    return [name, isAuto ? setSetting(content.toString(), 'full_page_writes', fullPageWrites) : content]
  })
  return new Map(restored)
}

const filesOf = ({ certificate, key }: ServerCertificate): Readonly<Record<string, string>> => ({
  'server.crt': certificate,
  'server.key': key,
})

const withSettings = (text: string, settings: Readonly<Record<string, string>>): string =>
  Object.entries(settings).reduce((all, [name, value]) => setSetting(all, name, value), text)

/** The file's text with one setting, which stands once and last. */
export function setSetting(text: string, name: string, value: string): string {
  const lines = text.split('\n').filter((line) => line !== '' && !parseSettings(line).has(name))
  return `${[...lines, `${name} = '${value.replaceAll("'", "''")}'`].join('\n')}\n`
}

/**
 * The settings in the configuration files of PGDATA: as postgresql.auto.conf has them (ALTER SYSTEM writes one line a
 * setting), else as postgresql.conf has them. Names are not case-sensitive (guc-file.l).
 */
export async function readSettings(files: ComputeFiles): Promise<(name: string) => string | undefined> {
  const settings = new Map<string, string>()
  for (const file of ['postgresql.conf', 'postgresql.auto.conf'] as const) {
    const text = (await readConfigurationFile(files, file))?.toString() ?? ''
    for (const [name, value] of parseSettings(text)) settings.set(name, value)
  }
  return (name) => settings.get(name)
}

/** Lines `name = value`, the last of a name counting; quotes are taken off, comments left out. */
export function parseSettings(text: string): Map<string, string> {
  const settings = new Map<string, string>()
  for (const line of text.split('\n')) {
    const match = /^\s*([A-Za-z_][\w.]*)(?:\s*=\s*|\s+)(?:'((?:[^']|'')*)'|([^\s'#]+))\s*(?:#.*)?$/.exec(line)
    const [, name, quoted, plain] = match ?? []
    if (name !== undefined) settings.set(name.toLowerCase(), quoted?.replaceAll("''", "'") ?? plain ?? '')
  }
  return settings
}

/** By which a new timeline begins: what initdb made, changed. */
export async function firstConfiguration(
  files: ComputeFiles,
  { settings, certificate }: SeedOptions,
): Promise<InstalledFiles> {
  const text = (await readConfigurationFile(files, 'postgresql.auto.conf'))?.toString() ?? ''
  const auto = withSettings(text, { full_page_writes: 'on', ...FIRST_SETTINGS, ...settings })
  const contents = { 'postgresql.auto.conf': auto, 'pg_hba.conf': FIRST_RULES, ...filesOf(certificate) }
  return new Map(Object.entries(contents))
}
