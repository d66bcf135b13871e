/**
 * `npm run e2e -- --kubeconfig FILE`: the chart on a real cluster. Installs, tests, kills one pod of each kind under
 * load, switches full_page_writes off, upgrades a value, verifies, uninstalls, and looks at what is left. Exit codes: 0
 * all held, 1 something did not, 2 wrong flags.
 */
import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { describeError, isErrorCode, fail } from '@understory/base'
import { oneOf, parseOptions, text, wholeNumber } from '@understory/env'
import { helmProgram } from '@understory/testcontainers'
import { ROOT } from '../run-command.ts'
import { checkDrain, endPod, killPod, killPostgres } from './kills.ts'
import type { KillResult } from './kills.ts'
import { Load, startClient, understory } from './load.ts'
import { feed, helm, kubectl, objects } from './programs.ts'
import type { Tools } from './programs.ts'
import { checkSecrets } from './secrets.ts'

const OPTIONS = {
  kubeconfig: { read: text, placeholder: 'FILE', help: 'the cluster' },
  load: {
    read: text,
    optional: true,
    placeholder: 'COMMAND',
    help: 'gives an image archive, on its standard input, to the nodes; `npm run images` has made the archives',
  },
  images: {
    read: text,
    fallback: join(ROOT, '.understory', 'images'),
    placeholder: 'DIR',
    help: 'where the archives are',
  },
  standIns: {
    read: oneOf('yes', 'no'),
    fallback: 'no',
    placeholder: 'yes|no',
    help: 'stand-ins take the place of the official images of Postgres, MinIO and Redis',
  },
  namespace: {
    read: text,
    fallback: 'understory-e2e',
    placeholder: 'NAME',
    help: 'made, and removed at the end',
  },
  pg: { read: oneOf('17', '18'), fallback: '17', placeholder: 'MAJOR', help: 'Postgres version' },
  safekeepers: { read: wholeNumber(1, 7), fallback: 3, placeholder: 'N', help: 'number of safekeepers' },
  controlPlanes: { read: wholeNumber(1, 5), fallback: 1, placeholder: 'N', help: 'number of control planes' },
  keep: {
    read: oneOf('yes', 'no'),
    fallback: 'no',
    placeholder: 'yes|no',
    help: 'leave everything as it is where something fails',
  },
} as const

const CHART = join(ROOT, 'deploy/helm/understory')
const RELEASE = 'understory'
const TENANT = 'e2e'
const READY_MS_MAX = 180_000
const GONE_MS_MAX = 120_000

const startedMs = performance.now()
const say = (line: string): void => {
  const seconds = ((performance.now() - startedMs) / 1_000).toFixed(1).padStart(6)
  process.stdout.write(`${seconds} s  ${line}\n`)
}

const STAND_INS = [
  'compute.postgresImage.repository=understory-stand-in/postgres',
  'objectStore.bundled.image.repository=understory-stand-in/minio',
  'objectStore.bundled.image.tag=test',
  'broker.bundled.image.repository=understory-stand-in/redis',
  'broker.bundled.image.tag=7',
]

type Given = Extract<ReturnType<typeof parseGiven>, { kind: 'values' }>['values']
const parseGiven = () => parseOptions('e2e', OPTIONS, process.argv.slice(2), process.env)

async function main(): Promise<void> {
  const options = parseGiven()
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return
  }
  const given = options.values
  const kubeconfig = resolve(given.kubeconfig)
  if (!existsSync(kubeconfig)) throw fail('bad_argument', `kubeconfig "${kubeconfig}" is not there`)
  const tools: Tools = { kubeconfig, namespace: given.namespace, helm: await helmProgram() }
  if (given.load !== undefined) await loadImages(given.load, given.images)
  await kubectl(tools, 'create', 'namespace', given.namespace)
  let isDone = false
  try {
    await run(tools, given)
    isDone = true
  } finally {
    if (isDone || given.keep === 'no') {
      if (!isDone) await showTrouble(tools)
      await kubectl(tools, 'delete', 'namespace', given.namespace, '--wait=true', '--timeout=180s')
    }
  }
  say('everything held')
}

async function loadImages(command: string, folder: string): Promise<void> {
  const archives = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith('.tar'))
  if (archives.length === 0)
    throw fail('precondition', `there is no image archive in "${folder}"`, { hint: 'Run npm run images.' })
  for (const name of archives) await feed(command, join(folder, name))
  say(`${archives.length} images loaded`)
}

async function run(tools: Tools, given: Given): Promise<void> {
  const settings = [
    `safekeeper.replicas=${given.safekeepers}`,
    `controlPlane.replicas=${given.controlPlanes}`,
    `tests.postgresMajor=${given.pg}`,
    ...(given.standIns === 'yes' ? STAND_INS : []),
  ]
  const values = ['-f', join(CHART, 'values-kind.yaml'), ...settings.flatMap((value) => ['--set', value])]
  const installMs = await timed(() =>
    helm(tools, 'install', RELEASE, CHART, ...values, '--wait', '--timeout', '5m'),
  )
  say(`installed, all pods ready after ${seconds(installMs)}`)
  if (installMs > READY_MS_MAX) throw fail('timeout', `that is longer than ${seconds(READY_MS_MAX)}`)

  const tested = await helm(tools, 'test', RELEASE, '--logs', '--timeout', '5m')
  for (const line of tested.split('\n').filter((line) => line.startsWith('ok '))) say(`helm test: ${line}`)

  const endpoint = `${RELEASE}-control-plane.${tools.namespace}.svc:7400`
  await startClient(tools, {
    image: await ownImage(tools),
    endpoint,
    tokenSecret: `${RELEASE}-token`,
    tlsSecret: `${RELEASE}-tls`,
    tlsName: 'understory',
  })
  let connectionString = ''
  const createMs = await timed(async () => {
    const create = ['--format', 'json', 'tenant', 'create', TENANT, '--pg', given.pg]
    const [made] = JSON.parse(await understory(tools, ...create)) as { connection: string }[]
    connectionString = made?.connection ?? ''
  })
  say(`a tenant is made and takes SQL after ${seconds(createMs)}`)

  const load = new Load(tools, connectionString)
  await load.flowing()
  say('load flows')
  const ofTenant = `,understory/tenant=${await tenantId(tools)}`
  const kills: KillResult[] = []
  const note = (result: KillResult): void => {
    kills.push(result)
    say(
      `ended: ${result.what}, commits paused ${seconds(result.pauseMs)}, ready again after ${seconds(result.backMs)}`,
    )
  }
  note(await killPod(tools, load, 'safekeeper'))
  note(await killPod(tools, load, 'pageserver'))
  note(await killPod(tools, load, 'control-plane', ',understory/leader=true'))
  note(await killPod(tools, load, 'redis'))
  note(await killPod(tools, load, 'object-store'))
  note(await killPod(tools, load, 'compute', ofTenant))
  note(await killPostgres(tools, load, ofTenant))
  note(await endPod(tools, load, 'compute', ofTenant))
  await checkDrain(tools)
  say('nothing stops kubectl drain')
  const [compute] = await objects<{ metadata: { name: string } }>(tools, 'pods', '-l', ofTenant.slice(1))
  await checkSecrets(tools, compute?.metadata.name ?? '')
  say('Postgres cannot look into its proxy')

  load.takeLongestMs()
  const switchMs = await timed(() => understory(tools, 'tenant', 'fpw', 'off', TENANT))
  say(`full_page_writes off after ${seconds(switchMs)}, longest commit ${load.takeLongestMs()} ms`)

  const upgradeMs = await timed(() =>
    helm(tools, 'upgrade', RELEASE, CHART, ...values, '--set', 'logLevel=debug', '--wait', '--timeout', '5m'),
  )
  await load.flowing()
  say(`upgraded (log level) after ${seconds(upgradeMs)}, commits paused ${seconds(load.takeLongestMs())}`)

  const { total, lost } = await load.stop()
  say(
    `${total} acknowledged commits, ${lost.length} lost${lost.length > 0 ? `: ${lost.slice(0, 5).join(', ')}` : ''}`,
  )
  if (lost.length > 0) throw fail('precondition', 'acknowledged commits were lost')
  const verified = await understory(tools, 'timeline', 'verify', TENANT)
  say(`timeline verify: ${verified.trim().split('\n').at(-1) ?? ''}`)

  const deleteMs = await timed(() => understory(tools, 'tenant', 'delete', TENANT, '--stop-compute'))
  const kept = await objects<{ metadata: { name: string } }>(tools, 'pods,services', '-l', ofTenant.slice(1))
  say(`tenant deleted after ${seconds(deleteMs)}; of it is left: ${kept.length}`)
  if (kept.length > 0) throw fail('precondition', `deleting left ${kept[0]?.metadata.name ?? ''}`)

  await kubectl(tools, 'delete', 'pod', 'e2e-client', '--wait=true')
  const uninstallMs = await timed(() => helm(tools, 'uninstall', RELEASE, '--wait', '--timeout', '5m'))
  const left = await leftovers(tools)
  say(`uninstalled after ${seconds(uninstallMs)}; what is left: ${left.join(', ')}`)
  const surplus = left.filter((name) => !name.startsWith('persistentvolumeclaim/'))
  if (surplus.length > 0) throw fail('precondition', `uninstalling left ${surplus.join(', ')}`)
}

const seconds = (ms: number): string => `${(ms / 1_000).toFixed(1)} s`

async function timed(act: () => Promise<unknown>): Promise<number> {
  const beganMs = performance.now()
  await act()
  return performance.now() - beganMs
}

async function ownImage(tools: Tools): Promise<string> {
  return kubectl(
    tools,
    'get',
    `deployment/${RELEASE}-control-plane`,
    '-o',
    'jsonpath={.spec.template.spec.containers[0].image}',
  )
}

async function tenantId(tools: Tools): Promise<string> {
  const tenants = JSON.parse(await understory(tools, '--format', 'json', 'tenant', 'list')) as {
    name: string
    tenant: string
  }[]
  return tenants.find(({ name }) => name === TENANT)?.tenant ?? ''
}

const KINDS =
  'pods,services,deployments,statefulsets,configmaps,secrets,serviceaccounts,roles,rolebindings,poddisruptionbudgets,persistentvolumeclaims'
/** Every namespace has these by itself; the pod of `helm test` stays by Helm's own rule. */
const NOT_OURS = ['configmap/kube-root-ca.crt', 'serviceaccount/default', `pod/${RELEASE}-smoke-test`]

/** Owned objects go a moment after their owner. */
async function leftovers(tools: Tools): Promise<string[]> {
  const untilMs = performance.now() + GONE_MS_MAX
  for (;;) {
    const found = await objects<{ kind: string; metadata: { name: string } }>(tools, KINDS)
    const names = found
      .map(({ kind, metadata }) => `${kind.toLowerCase()}/${metadata.name}`)
      .filter((name) => !NOT_OURS.includes(name))
    const isClean = names.every((name) => name.startsWith('persistentvolumeclaim/'))
    if (isClean || performance.now() > untilMs) return names
    await delay(1_000)
  }
}

async function showTrouble(tools: Tools): Promise<void> {
  const looks = [
    ['get', 'pods', '-o', 'wide'],
    ['get', 'events', '--sort-by=.lastTimestamp'],
    ['logs', `deployment/${RELEASE}-control-plane`, '--tail=40'],
    ['logs', '-l', 'app.kubernetes.io/component=compute', '--all-containers', '--prefix', '--tail=40'],
  ]
  for (const look of looks) {
    const shown = await kubectl(tools, ...look).catch(describeError)
    process.stderr.write(`--- kubectl ${look.join(' ')}\n${shown.split('\n').slice(-60).join('\n')}\n`)
  }
}

try {
  await main()
} catch (error) {
  process.stderr.write(`understory: ${describeError(error)}\n`)
  process.exitCode = isErrorCode(error, 'bad_argument') ? 2 : 1
}
