/**
 * The few calls of the Kubernetes API that computes need, from within a pod: over HTTPS with the service account's
 * token, which the kubelet renews in its file. No client library: a handful of calls does not need its 20 MB.
 */
import { readFile } from 'node:fs/promises'
import { Agent, request } from 'node:https'
import { join } from 'node:path'
import { describeError, isErrorCode, fail } from '@understory/base'
import type { ErrorCode } from '@understory/base'
import type { Pod } from './pod.ts'

const ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount'
const DEADLINE_MS = 10_000
/** The owner of the fields that are applied. */
const FIELD_MANAGER = 'understory-control-plane'
/** The list of the pods of one release, many times over. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024

export interface KubernetesApi {
  listPods(selector: string): Promise<readonly Pod[]>
  /** Errors: `already_exists`. */
  createPod(manifest: object): Promise<void>
  /** A missing one counts as deleted. */
  deletePod(name: string): Promise<void>
  /** Null removes a label. A missing pod has none. */
  labelPod(name: string, labels: Readonly<Record<string, string | null>>): Promise<void>
  /** Makes it, or makes it as the manifest says (server-side apply). */
  applyService(name: string, manifest: object): Promise<void>
  /** Where it is there and its labels are such. Errors: `already_exists` where it has changed in between. */
  deleteService(name: string, hasLabels: (labels: Readonly<Record<string, string>>) => boolean): Promise<void>
  /** The uid of a deployment. */
  deploymentUid(name: string): Promise<string>
}

interface ServiceMetadata {
  readonly labels?: Readonly<Record<string, string>>
  readonly uid: string
  readonly resourceVersion: string
}

export interface ApiParts {
  readonly namespace: string
  /** host:port of the API server. */
  readonly server: string
  /** Folder of `token` and `ca.crt`. */
  readonly account?: string
}

/** The API server as a pod's environment has it. Errors: `precondition` outside of a pod. */
export function apiServer(environment: Readonly<Record<string, string | undefined>>): string {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port = '443' } = environment
  if (host !== undefined) return `${host.includes(':') ? `[${host}]` : host}:${port}`
  throw fail('precondition', 'this process is not in a pod of Kubernetes', {
    hint: 'Leave --compute-pods away, or run it in a pod with a service account.',
  })
}

export async function openKubernetesApi({
  namespace,
  server,
  account = ACCOUNT,
}: ApiParts): Promise<KubernetesApi> {
  const agent = new Agent({ ca: await readFile(join(account, 'ca.crt')), keepAlive: true })
  const core = `/api/v1/namespaces/${namespace}`

  const call = async (
    method: string,
    path: string,
    body?: object,
    contentType = 'application/json',
  ): Promise<unknown> => {
    const token = (await readFile(join(account, 'token'), 'utf8')).trim()
    const { status, text } = await send(agent, method, `https://${server}${path}`, {
      token,
      ...(body === undefined ? {} : { content: { type: contentType, text: JSON.stringify(body) } }),
    })
    if (status < 300) return JSON.parse(text)
    throw fail(codeOf(status), `Kubernetes refused ${method} ${path} with ${status}`, {
      detail: messageOf(text),
      ...(status === 403
        ? { hint: 'Give the service account the role that the chart makes (rbac.create).' }
        : {}),
    })
  }

  return {
    async listPods(selector) {
      const { items } = (await call('GET', `${core}/pods?labelSelector=${encodeURIComponent(selector)}`)) as {
        items: Pod[]
      }
      return items
    },
    async createPod(manifest) {
      await call('POST', `${core}/pods`, manifest)
    },
    async deletePod(name) {
      await ifThere(call('DELETE', `${core}/pods/${name}`))
    },
    async labelPod(name, labels) {
      const patch = { metadata: { labels } }
      await ifThere(call('PATCH', `${core}/pods/${name}`, patch, 'application/merge-patch+json'))
    },
    async applyService(name, manifest) {
      const path = `${core}/services/${name}?fieldManager=${FIELD_MANAGER}&force=true`
      await call('PATCH', path, manifest, 'application/apply-patch+yaml')
    },
    async deleteService(name, hasLabels) {
      const path = `${core}/services/${name}`
      const found = await ifThere(call('GET', path))
      if (found === undefined) return
      const { labels = {}, uid, resourceVersion } = (found as { metadata: ServiceMetadata }).metadata
      if (!hasLabels(labels)) return
      await ifThere(call('DELETE', path, { preconditions: { uid, resourceVersion } }))
    },
    async deploymentUid(name) {
      const path = `/apis/apps/v1/namespaces/${namespace}/deployments/${name}`
      const { metadata } = (await call('GET', path)) as { metadata: { uid: string } }
      return metadata.uid
    },
  }
}

async function ifThere(answer: Promise<unknown>): Promise<unknown> {
  try {
    return await answer
  } catch (error) {
    if (isErrorCode(error, 'not_found')) return undefined
    throw error
  }
}

function codeOf(status: number): ErrorCode {
  if (status === 404) return 'not_found'
  if (status === 409) return 'already_exists'
  if (status === 401 || status === 403) return 'denied'
  return status < 500 && status !== 429 ? 'precondition' : 'unavailable'
}

/** Of a `Status` object; anything else as it is. */
function messageOf(text: string): string {
  try {
    return (JSON.parse(text) as { message?: string }).message ?? text
  } catch {
    return text.slice(0, 500)
  }
}

interface Outgoing {
  readonly token: string
  readonly content?: { readonly type: string; readonly text: string }
}

function send(
  agent: Agent,
  method: string,
  url: string,
  { token, content }: Outgoing,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const onError = (cause: unknown): void =>
      reject(
        fail('unavailable', 'the Kubernetes API does not answer', { detail: describeError(cause), cause }),
      )
    const body = content === undefined ? undefined : Buffer.from(content.text)
    const headers = {
      authorization: `Bearer ${token}`,
      accept: 'application/json',
      // Without its length the body of a DELETE would be taken for the next request.
      ...(content === undefined ? {} : { 'content-type': content.type, 'content-length': body?.length }),
    }
    const signal = AbortSignal.timeout(DEADLINE_MS)
    const outgoing = request(url, { method, agent, headers, signal }, (response) => {
      const chunks: Buffer[] = []
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes > ANSWER_BYTES_MAX) outgoing.destroy(new Error('the answer is too large'))
        chunks.push(chunk)
      })
      response.on('error', onError)
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() }),
      )
    })
    outgoing.on('error', onError)
    outgoing.end(body)
  })
}
