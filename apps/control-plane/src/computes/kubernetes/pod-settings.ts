/** The settings of computes' pods: a file that the chart writes (`--compute-pods`). */
import { readFile } from 'node:fs/promises'
import { describeError, fail } from '@understory/base'
import { z } from 'zod'

/**
 * As in the image (deploy/docker/Dockerfile): another user than Postgres's, so that a superuser of the tenant has no
 * way to it.
 */
export const PROXY_UID = 10_001

const strings = z.record(z.string(), z.string())
const object = z.record(z.string(), z.unknown())

const podSettings = z.strictObject({
  namespace: z.string().min(1),
  /** Of pods and services. */
  namePrefix: z.string().min(1),
  /** The deployment of this control plane: what is made here goes with it. */
  ownerDeployment: z.string().min(1),
  /** By which the pods of control planes are found. */
  controlPlaneLabels: strings,
  /** Of everything that is made here. */
  labels: strings,
  /** The labels by which the computes of this release are found. */
  selectorLabels: strings,
  podLabels: strings,
  podAnnotations: strings,
  proxyImage: z.string().min(1),
  postgresImages: z.strictObject({ '16': z.string(), '17': z.string(), '18': z.string() }),
  imagePullPolicy: z.enum(['Always', 'IfNotPresent', 'Never']),
  imagePullSecrets: z.array(object),
  serviceAccount: z.string().min(1),
  /** Of the user postgres in the image: 999 in Debian's, 70 in Alpine's; another one than the proxy's. */
  postgresUid: z
    .number()
    .int()
    .positive()
    .refine((uid) => uid !== PROXY_UID, `is the user of compute-proxy, ${PROXY_UID}`),
  /** Secret of the certificate that `env` speaks of; empty: no TLS. */
  tlsSecret: z.string(),
  proxyResources: object,
  postgresResources: object,
  dataSizeLimit: z.string().min(1),
  sharedMemorySizeLimit: z.string().min(1),
  terminationGraceS: z.number().int().min(20),
  contactTimeoutMs: z.number().int().min(2_000),
  ingestLagLimitMib: z.number().int().min(1).default(512),
  logLevel: z.enum(['error', 'warn', 'info', 'debug']),
  /** Where each compute serves /metrics; 0: nowhere. */
  metricsPort: z.number().int().min(0).max(65_535).default(0),
  env: z.array(object),
  priorityClassName: z.string(),
  nodeSelector: strings,
  tolerations: z.array(object),
  affinity: object,
  topologySpreadConstraints: z.array(object),
  service: z.strictObject({ type: z.string(), annotations: strings }),
})
export type PodSettings = z.infer<typeof podSettings>

/** Errors: `bad_argument` that names what is wrong. */
export async function readPodSettings(path: string): Promise<PodSettings> {
  try {
    return parsePodSettings(JSON.parse(await readFile(path, 'utf8')))
  } catch (cause) {
    throw fail('bad_argument', `pod settings "${path}" cannot be used`, {
      detail: describeError(cause),
      hint: 'The chart writes them (ConfigMap …-compute-pods).',
      cause,
    })
  }
}

export function parsePodSettings(value: unknown): PodSettings {
  const { success, data, error } = podSettings.safeParse(value)
  if (success) return data
  const issues = error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`)
  throw fail('bad_argument', `pod settings are malformed: ${issues.join('; ')}`)
}
