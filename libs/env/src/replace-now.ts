/**
 * A small document that is durable before the program does anything else: for what must be on disk before a message
 * leaves.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { diskError } from './real-disk.ts'

/**
 * As `Disk.durableReplace`, without giving way: durable when it returns. Its folder is made where it is missing; one
 * process at a time writes the document. Errors: those of `Disk`.
 */
export function replaceNow(path: string, text: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    const file = openSync(`${path}.new`, 'w')
    try {
      writeSync(file, text)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    renameSync(`${path}.new`, path)
    const folder = openSync(dirname(path), 'r')
    try {
      fsyncSync(folder)
    } finally {
      closeSync(folder)
    }
  } catch (error) {
    throw diskError(error, `write file "${path}"`)
  }
}
