/**
 * The side of the proxy in two-users.pg.test.ts: a process of its own, because it has a user of its own. Standard input
 * says what to do.
 */
import { readFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { createInterface } from 'node:readline'
import { listWithin, realClock, realRng, silentLog } from '@understory/env'
import { checkSpec } from '@understory/protocol'
import { ComputeSpec } from '@understory/rpc'
import { DataDirectoryWriter } from '../../../libs/pgdata/src/data-directory.ts'
import { databaseNames } from '../src/postgres/database-names.ts'
import {
  firstConfiguration,
  postgresArguments,
  readSettings,
  restoredConfiguration,
  seedOf,
  writeGate,
} from '../src/postgres/configuration.ts'
import type { Gate } from '../src/postgres/configuration.ts'
import { CONFIGURATION_FILES, readConfigurationFile } from '../src/postgres/configuration-store.ts'
import type { Postmaster } from '../src/postgres/launcher.ts'
import { podFiles } from '../src/postgres/layout.ts'
import { SidecarLauncher } from '../src/postgres/sidecar-launcher.ts'
import { allowStart } from '../src/postgres/postgres.ts'
import { waitForSql, withSql } from '../src/postgres/sql.ts'

const [root = '', major = '17', port = '0'] = process.argv.slice(2)
process.umask(0o007)
const files = podFiles({
  shared: join(root, 'shared'),
  orders: join(root, 'orders'),
  own: join(root, 'own'),
})
const target = { files, port: Number(port), major: Number(major) as 16 | 17 | 18 }
const say = (event: string, fields: object = {}): void => console.log(JSON.stringify({ event, ...fields }))
const launcher = new SidecarLauncher({
  files,
  clock: realClock,
  log: silentLog,
  onStopAsked: () => say('stop asked'),
})

const spec = checkSpec({
  ...ComputeSpec.fromPartial({ postgresMajor: Number(major) }),
  timeline: { tenantId: '1'.repeat(32), timelineId: '2'.repeat(32) },
  safekeepers: ['127.0.0.1:1'],
  pageservers: ['127.0.0.1:1'],
})
const front = { listenAddresses: '', host: 'localhost' }
const seed = seedOf({ spec, front, clock: realClock, rng: realRng })

async function start(gate: Gate): Promise<Postmaster> {
  writeGate(files, gate, { launcher, spec })
  await allowStart(files)
  const where = { port: Number(port), listenAddresses: '', isSuspect: false }
  return launcher.start(files, postgresArguments(files, where, Number(major), await readSettings(files)))
}

/** Every file of the data directory, as it is read by this user. */
async function contents(path: string): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>()
  for (const { name, kind } of listWithin(files.pgdata, path)) {
    const below = join(path, name)
    if (kind === 'folder') for (const [inner, bytes] of await contents(below)) found.set(inner, bytes)
    else if (!name.startsWith('postmaster') && name !== 'server.key')
      found.set(below, await readFile(join(files.pgdata, below)))
    if (kind === 'folder') found.set(`${below}/`, Buffer.alloc(0))
  }
  return found
}

await launcher.open()
say('open', { pid: process.pid })
await launcher.initdb(files)
await launcher.install(files, await firstConfiguration(files, seed))
let postmaster = await start('bootstrap')
await waitForSql(target, realClock, postmaster.exited, 'postgres')
await withSql(target, (client) => client.query('create role understory superuser replication login'), {
  user: 'postgres',
})
writeGate(files, 'open', { launcher, spec })
await withSql(target, (client) => client.query('select pg_reload_conf()'))
say('running', { databases: await databaseNames(files.pgdata) })
for await (const line of createInterface({ input: process.stdin })) {
  postmaster.signal(line === 'rebuild' ? 'SIGINT' : 'SIGQUIT')
  say('ended', { how: await postmaster.exited })
  if (line !== 'rebuild') break
  const keptFiles = new Map<string, Buffer>()
  for (const name of CONFIGURATION_FILES) {
    const bytes = await readConfigurationFile(files, name)
    if (bytes !== undefined) keptFiles.set(name, bytes)
  }
  const all = await contents('.')
  await launcher.endOld()
  await launcher.emptyPgdata()
  const writer = new DataDirectoryWriter(files.pgdata, undefined, true)
  for (const [path, bytes] of all) {
    const inside = relative('.', path)
    if (path.endsWith('/')) writer.makeDirectory(inside)
    else await writer.write(inside, 0, bytes)
    if (bytes.length === 0 && !path.endsWith('/')) writer.reserve(inside, 0)
  }
  writer.close()
  const kept = { term: 1, number: 1, files: keptFiles, soundFiles: keptFiles }
  await launcher.install(files, restoredConfiguration(kept, { ...seed, fullPageWrites: 'off' }))
  postmaster = await start('open')
  await waitForSql(target, realClock, postmaster.exited)
  say('rebuilt', { databases: await databaseNames(files.pgdata), kept: [...keptFiles.keys()] })
}
launcher.finish()
process.exit(0)
