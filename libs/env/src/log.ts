/**
 * JSON lines: time, level, event name, bound fields, fields. *error* a human must look, *warn* unexpected but done,
 * *info* state changes, *debug* the rest. Never page bytes, row values, SQL or keys: byte arrays print as their length.
 */
import { UnderstoryError, describeError } from '@understory/base'
import { type Clock, realClock } from './clock.ts'

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]
export type LogFields = Readonly<Record<string, unknown>>

export interface Log {
  error(event: string, fields?: LogFields): void
  warn(event: string, fields?: LogFields): void
  info(event: string, fields?: LogFields): void
  debug(event: string, fields?: LogFields): void
  /** The same log with more bound fields, such as tenant and timeline. */
  child(fields: LogFields): Log
}

export interface JsonLogOptions {
  /** The least important level that is written. */
  readonly level?: LogLevel
  readonly clock?: Clock
  /** Takes one line with its newline. */
  readonly write?: (line: string) => void
  readonly fields?: LogFields
}

/** Writes to standard error unless told otherwise. */
export function jsonLog(options: JsonLogOptions = {}): Log {
  const { level = 'info', clock = realClock, write = writeToStderr, fields: bound = {} } = options
  const depth = LOG_LEVELS.indexOf(level)
  const at =
    (index: number) =>
    (event: string, fields: LogFields = {}): void => {
      if (index > depth) return
      const time = new Date(clock.wallMs()).toISOString()
      write(`${JSON.stringify({ time, level: LOG_LEVELS[index], event, ...bound, ...fields }, printable)}\n`)
    }
  return {
    error: at(0),
    warn: at(1),
    info: at(2),
    debug: at(3),
    child: (fields) => jsonLog({ level, clock, write, fields: { ...bound, ...fields } }),
  }
}

/** Says nothing. */
export const silentLog: Log = {
  error: () => undefined,
  warn: () => undefined,
  info: () => undefined,
  debug: () => undefined,
  child: () => silentLog,
}

function writeToStderr(line: string): void {
  process.stderr.write(line)
}

function printable(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return String(value)
  if (value instanceof Error) return describeForLog(value)
  if (ArrayBuffer.isView(value)) return `${value.byteLength} bytes`
  if (value instanceof Map) return Object.fromEntries(value)
  return value instanceof Set ? [...value] : value
}

/** An expected error by its code and message, a bug with its stack. */
function describeForLog(error: Error): unknown {
  const cause = error.cause === undefined ? {} : { cause: error.cause }
  if (error instanceof UnderstoryError) return { code: error.code, message: describeError(error), ...cause }
  return { message: error.message, stack: error.stack, ...cause }
}
