/** The chart as Helm renders it, as objects. */
import { execFile } from 'node:child_process'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { helmProgram } from '@understory/testcontainers'
import { parseAllDocuments } from 'yaml'
import { ROOT } from '../run-command.ts'

export const CHART: string = join(ROOT, 'deploy/helm/understory')
/** A Helm that was built from source takes the cluster for an old one without this. */
export const KUBE_VERSION = '1.33.0'

export interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: {
    readonly name: string
    readonly namespace?: string
    readonly labels: Readonly<Record<string, string>>
    readonly annotations?: Readonly<Record<string, string>>
  }
  readonly data?: Readonly<Record<string, string>>
  readonly spec?: unknown
  readonly rules?: readonly object[]
}

export interface RenderOptions {
  readonly release?: string
  /** A copy of it that was changed. */
  readonly chart?: string
  /** Files of the chart, or absolute paths. */
  readonly values?: readonly string[]
  readonly set?: Readonly<Record<string, string>>
  /** Instead of the chart's own templates alone. */
  readonly args?: readonly string[]
}

/** Not in this thread's way: a test may serve what Helm asks for. */
export async function helmOutput(args: readonly string[]): Promise<string> {
  const limits = { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 } as const
  const { stdout } = await promisify(execFile)(await helmProgram(), args, limits)
  return stdout
}

/** Error: what Helm said. */
export async function renderText(options: RenderOptions = {}): Promise<string> {
  const { release = 'understory', chart = CHART, values = [], set = {}, args = [] } = options
  const flags = [
    ...values.flatMap((file) => ['-f', resolve(CHART, file)]),
    ...Object.entries(set).flatMap(([name, value]) => ['--set', `${name}=${value}`]),
  ]
  try {
    return await helmOutput(['template', release, chart, '--kube-version', KUBE_VERSION, ...flags, ...args])
  } catch (error) {
    throw new Error((error as { stderr?: string }).stderr ?? String(error), { cause: error })
  }
}

export async function render(options: RenderOptions = {}): Promise<readonly Manifest[]> {
  const documents = parseAllDocuments(await renderText(options))
  return documents
    .map((document) => document.toJS() as Manifest | null)
    .filter((manifest) => manifest !== null)
}

/** Values of an installation with an object store and a Redis of its own. */
export const EXTERNAL: Readonly<Record<string, string>> = {
  'objectStore.mode': 'external',
  'objectStore.external.bucket': 'layers',
  'objectStore.external.existingSecret': 's3',
  'broker.mode': 'external',
  'broker.external.host': 'redis.example.com',
}
