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
  /** Called for every line that is written, with its bound fields and their values as they are printed. */
  readonly also?: ((record: LogRecord) => void) | undefined
  readonly fields?: LogFields
}

export interface LogRecord {
  readonly wallMs: number
  readonly level: LogLevel
  readonly event: string
  readonly fields: LogFields
}

/** Writes to standard error unless `write` is given. */
export function jsonLog(options: JsonLogOptions = {}): Log {
  const { level = 'info', clock = realClock, write = writeToStderr, also, fields: bound = {} } = options
  const depth = LOG_LEVELS.indexOf(level)
  const at =
    (index: number) =>
    (event: string, fields: LogFields = {}): void => {
      if (index > depth) return
      const wallMs = clock.wallMs()
      const time = new Date(wallMs).toISOString()
      const name = LOG_LEVELS[index] as LogLevel
      const line = JSON.stringify({ time, level: name, event, ...bound, ...fields }, printable)
      write(`${line}\n`)
      also?.({ wallMs, level: name, event, fields: printedFields(line) })
    }
  return {
    error: at(0),
    warn: at(1),
    info: at(2),
    debug: at(3),
    child: (fields) => jsonLog({ level, clock, write, also, fields: { ...bound, ...fields } }),
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

/** As the line has them: byte arrays are lengths there, and errors are what a reader may see. */
function printedFields(line: string): LogFields {
  const { time: _time, level: _level, event: _event, ...fields } = JSON.parse(line) as Record<string, unknown>
  return fields
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
