/** kubectl and helm on one cluster and namespace. */
import { execFile, spawn } from 'node:child_process'
import { createReadStream } from 'node:fs'
import { basename } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { fail } from '@understory/base'

export interface Tools {
  readonly kubeconfig: string
  readonly namespace: string
  readonly helm: string
}

const TIMEOUT_MS = 600_000
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024

/** Returns its standard output. Error: refused with its standard error. */
function run(program: string, { kubeconfig, namespace }: Tools, args: readonly string[]): Promise<string> {
  const all = ['--kubeconfig', kubeconfig, '--namespace', namespace, ...args]
  return new Promise((resolve, reject) => {
    execFile(program, all, { maxBuffer: OUTPUT_BYTES_MAX, timeout: TIMEOUT_MS }, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout)
      const what = `${basename(program)} ${args.slice(0, 3).join(' ')}`
      const detail = `${stderr}${stdout}`.trim().slice(-2_000)
      reject(fail('precondition', `${what} failed`, { detail, cause: error }))
    })
  })
}

export const kubectl = (tools: Tools, ...args: readonly string[]): Promise<string> =>
  run('kubectl', tools, args)
export const helm = (tools: Tools, ...args: readonly string[]): Promise<string> =>
  run(tools.helm, tools, args)

/** `kubectl get … -o json`, its items. */
export async function objects<T>(
  tools: Tools,
  what: string,
  ...more: readonly string[]
): Promise<readonly T[]> {
  const { items } = JSON.parse(await kubectl(tools, 'get', what, '-o', 'json', ...more)) as { items: T[] }
  return items
}

/** Gives the file to a shell command on its standard input. */
export async function feed(command: string, file: string): Promise<void> {
  const child = spawn('sh', ['-c', command], { stdio: ['pipe', 'inherit', 'inherit'] })
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  // A program that ends without reading says why by its exit code.
  await pipeline(createReadStream(file), child.stdin).catch(() => undefined)
  const code = await ended
  if (code !== 0) throw fail('precondition', `"${command}" ended with exit code ${code} on ${file}`)
}
