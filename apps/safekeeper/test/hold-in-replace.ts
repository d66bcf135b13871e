/**
 * Loaded into a safekeeper with `--import`: it stands still for ever at the step of a `durableReplace` that HOLD_AT
 * counts to (from 1), so that it can be killed right there. Says so on standard error.
 */
import fs from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'

const TEMPORARY = /\.new-/
let countdown = Number(process.env['HOLD_AT'])

/** Counts what has just happened to a temporary file. */
async function step(what: string): Promise<void> {
  if (--countdown !== 0) return
  process.stderr.write(`held after ${what}\n`)
  await new Promise(() => setInterval(() => undefined, 60_000))
}

const { open, rename } = fs
fs.open = async (path, flags, mode) => {
  const file = await open(path, flags, mode)
  if (!TEMPORARY.test(String(path))) return file
  await step('open')
  return new Proxy(file, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      return async (...args: readonly unknown[]): Promise<unknown> => {
        const result: unknown = await Reflect.apply(value, target, args)
        await step(String(name))
        return result
      }
    },
  })
}
fs.rename = async (from, to) => {
  await rename(from, to)
  if (TEMPORARY.test(String(from))) await step('rename')
}
syncBuiltinESMExports()
