/** The writers within the cluster (load.mjs), as this side sees them. */
import { spawn } from 'node:child_process'
import { openSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { present, fail } from '@understory/base'
import { temporaryDirectory } from '@understory/testcontainers'
import { ROOT } from '../run-command.ts'
import { kubectl } from './programs.ts'
import type { Tools } from './programs.ts'

const CLIENT = 'e2e-client'
const POLL_MS = 200
const RECOVER_MS_MAX = 300_000
/** So many acknowledgements within a second, and commits flow. */
const FLOWING_COUNT = 5

interface Line {
  readonly acknowledged?: number
  readonly longestMs?: number
  readonly lastProblem?: string
  readonly total?: number
  readonly lost?: readonly string[]
}

export interface LoadResult {
  readonly total: number
  readonly lost: readonly string[]
}

export interface ClientOptions {
  readonly image: string
  /** Of the control plane. */
  readonly endpoint: string
  /** Secret with the token. */
  readonly tokenSecret: string
  /** Secret with `ca.crt`. */
  readonly tlsSecret: string
  readonly tlsName: string
}

/** A pod outside of the release: it has the image of the services. */
const clientPod = ({ image, endpoint, tokenSecret, tlsSecret, tlsName }: ClientOptions): object => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: CLIENT },
  spec: {
    restartPolicy: 'Never',
    terminationGracePeriodSeconds: 1,
    securityContext: { runAsNonRoot: true, runAsUser: 10_001, seccompProfile: { type: 'RuntimeDefault' } },
    containers: [
      {
        name: 'client',
        image,
        imagePullPolicy: 'IfNotPresent',
        command: ['sleep', '36000'],
        env: [
          { name: 'UNDERSTORY_ENDPOINT', value: endpoint },
          { name: 'UNDERSTORY_TLS_CA', value: '/tls/ca.crt' },
          { name: 'UNDERSTORY_TLS_NAME', value: tlsName },
          { name: 'UNDERSTORY_TOKEN', valueFrom: { secretKeyRef: { name: tokenSecret, key: 'token' } } },
        ],
        volumeMounts: [
          { name: 'tmp', mountPath: '/tmp' },
          { name: 'tls', mountPath: '/tls', readOnly: true },
        ],
      },
    ],
    volumes: [
      { name: 'tmp', emptyDir: {} },
      { name: 'tls', secret: { secretName: tlsSecret, items: [{ key: 'ca.crt', path: 'ca.crt' }] } },
    ],
  },
})

export async function startClient(tools: Tools, options: ClientOptions): Promise<void> {
  await using folder = await temporaryDirectory({ prefix: 'e2e' })
  const file = join(folder.path, 'client.json')
  await writeFile(file, JSON.stringify(clientPod(options)))
  await kubectl(tools, 'apply', '-f', file)
  await kubectl(tools, 'wait', '--for=condition=Ready', `pod/${CLIENT}`, '--timeout=120s')
}

/** Runs the command line in the client's pod. */
export const understory = (tools: Tools, ...args: readonly string[]): Promise<string> =>
  kubectl(tools, 'exec', CLIENT, '--', 'understory', ...args)

export class Load {
  readonly #tools: Tools
  readonly #lines: Line[] = []
  readonly #ended: Promise<number | null>
  #taken = 0

  constructor(tools: Tools, connectionString: string) {
    this.#tools = tools
    const { kubeconfig, namespace } = tools
    const inPod = ['env', `E2E_SQL=${connectionString}`, 'node', '--input-type=module', '-']
    const exec = ['--kubeconfig', kubeconfig, '--namespace', namespace, 'exec', '-i', CLIENT, '--', ...inPod]
    const program = openSync(join(ROOT, 'tools/e2e/load.mjs'), 'r')
    const child = spawn('kubectl', exec, { stdio: [program, 'pipe', 'inherit'] })
    createInterface({ input: present(child.stdout, 'output of kubectl') }).on('line', (line) =>
      this.#lines.push(JSON.parse(line) as Line),
    )
    this.#ended = new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('close', resolve)
    })
  }

  /** The longest wait for an acknowledgement since the last call. */
  takeLongestMs(): number {
    const lines = this.#lines.slice(this.#taken)
    this.#taken = this.#lines.length
    return Math.max(0, ...lines.map(({ longestMs = 0 }) => longestMs))
  }

  /** Until acknowledgements come, three seconds in a row. */
  async flowing(): Promise<void> {
    const untilMs = performance.now() + RECOVER_MS_MAX
    const from = this.#lines.length
    for (;;) {
      const last = this.#lines.slice(-4).map(({ acknowledged = 0 }) => acknowledged)
      const isFlowing = last.slice(1).every((count, i) => count - (last[i] as number) >= FLOWING_COUNT)
      if (this.#lines.length >= from + 4 && isFlowing) return
      if (performance.now() > untilMs) {
        const problem = this.#lines.findLast(({ lastProblem }) => lastProblem)?.lastProblem ?? 'none'
        throw fail('timeout', `no commits for ${RECOVER_MS_MAX} ms`, { detail: `last error: ${problem}` })
      }
      await delay(POLL_MS)
    }
  }

  async stop(): Promise<LoadResult> {
    await kubectl(this.#tools, 'exec', CLIENT, '--', 'touch', '/tmp/stop')
    const code = await this.#ended
    const { total, lost } = this.#lines.at(-1) ?? {}
    if (total === undefined || lost === undefined)
      throw fail('precondition', `the load ended with exit code ${code} and without a result`)
    return { total, lost }
  }
}
