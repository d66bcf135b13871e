/** The proxy in start.test.ts: a process of its own, which is killed while it starts Postgres. */
import { realClock, silentLog } from '@understory/env'
import { childLauncher } from '../src/postgres/child-launcher.ts'
import { hostFiles } from '../src/postgres/layout.ts'
import { allowStart } from '../src/postgres/postgres.ts'

const [root = '', bin = '', path = '', uid = ''] = process.argv.slice(2)
const files = hostFiles(root)
const launcher = childLauncher({
  bin,
  owner: uid === '' ? undefined : { uid: Number(uid), gid: Number(uid) },
  environment: { PATH: path },
  adoptionGraceMs: 60_000,
  clock: realClock,
  log: silentLog,
})
await launcher.emptyPgdata(files)
await allowStart(files)
const { exited } = await launcher.start(files, [])
await exited
