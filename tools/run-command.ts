/** Runs one command of the tool chain, with its output shown, and returns whether it ended well. */
import { spawn } from 'node:child_process'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..')

export interface CommandResult {
  readonly ok: boolean
  /** Everything it wrote, both streams. */
  readonly output: string
}

/** `command` is looked for in node_modules/.bin first. `show`: pass the output on as it comes. */
export function runCommand(
  command: string,
  args: readonly string[],
  options: { readonly show: boolean; readonly env?: Readonly<Record<string, string>> } = { show: true },
): Promise<CommandResult> {
  return new Promise((resolvePromise) => {
    const path = `${join(ROOT, 'node_modules', '.bin')}:${process.env['PATH'] ?? ''}`
    const child = spawn(command, args, {
      cwd: ROOT,
      env: { ...process.env, ...options.env, PATH: path },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const chunks: Buffer[] = []
    const take = (chunk: Buffer): void => {
      chunks.push(chunk)
      if (options.show) process.stdout.write(chunk)
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    child.on('error', (error) =>
      resolvePromise({ ok: false, output: `could not run ${command}: ${error.message}\n` }),
    )
    child.on('close', (code) => resolvePromise({ ok: code === 0, output: Buffer.concat(chunks).toString() }))
  })
}
