/**
 * The arguments of a caller, checked before anything is sent: a slip is named, and is never taken for something else.
 */
import { parseLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'

const UINT32_MAX = 0xffff_ffff

const shown = (value: unknown): string =>
  typeof value === 'string' ? JSON.stringify(value) : typeof value === 'bigint' ? `${value}n` : String(value)

/** A name or id. */
export function readName(what: string, value: unknown): string {
  if (typeof value === 'string' && value !== '') return value
  throw fail('bad_argument', `${what} ${shown(value)} is not a name`, {
    hint: 'Give a name or id as text.',
  })
}

/** Empty where none is given. The value is not shown: it may be a secret. */
export function readText(what: string, value: unknown): string {
  if (value === undefined) return ''
  if (typeof value === 'string' && value !== '') return value
  throw fail('bad_argument', `${what} is not text, or empty`, { hint: 'Leave it out where there is none.' })
}

/** At most one of the two; the control plane checks what they are. */
export const readPassword = (given: {
  readonly password?: unknown
  readonly passwordVerifier?: unknown
}): { readonly password: string; readonly passwordVerifier: string } => ({
  password: readText('password', given.password),
  passwordVerifier: readText('passwordVerifier', given.passwordVerifier),
})

/** A name or id; empty, which means the timeline `main`, where none is given. */
export const readTimeline = (value: unknown): string =>
  value === undefined ? '' : readName('timeline', value)

export function readNames(what: string, values: unknown): string[] {
  if (values === undefined) return []
  if (Array.isArray(values)) return values.map((value) => readName(what, value))
  throw fail('bad_argument', `${what} ${shown(values)} is not a list`, { hint: 'Give names in an array.' })
}

export function readWholeNumber(what: string, value: unknown): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= UINT32_MAX) return value
  throw fail('bad_argument', `${what} ${shown(value)} is not a whole number from 0 to ${UINT32_MAX}`)
}

/** Milliseconds, or Infinity for no limit. */
export function readDuration(what: string, value: unknown): number {
  if (typeof value === 'number' && value >= 0) return value
  throw fail('bad_argument', `${what} ${shown(value)} is not a duration`, {
    hint: 'Give milliseconds as a number from 0 on, or Infinity.',
  })
}

export function readOneOf<const T extends string>(what: string, value: unknown, allowed: readonly T[]): T {
  const found = allowed.find((item) => item === value)
  if (found !== undefined) return found
  throw fail('bad_argument', `${what} ${shown(value)} is not known`, {
    hint: `Use ${allowed.join(' or ')}.`,
  })
}

export function readBoolean(what: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value
  throw fail('bad_argument', `${what} ${shown(value)} is neither true nor false`)
}

export const readPosition = (value: unknown): Lsn => parseLsn(String(value))

/** W3C trace context: version, trace, span, flags. */
export function readTraceparent(value: unknown): string | undefined {
  if (value === undefined) return undefined
  if (typeof value === 'string' && /^[\da-f]{2}-[\da-f]{32}-[\da-f]{16}-[\da-f]{2}$/.test(value)) return value
  throw fail('bad_argument', `traceparent ${shown(value)} is not a trace context`, {
    hint: 'Write it as in the W3C header traceparent.',
  })
}

/** Settings of Postgres, all as text. */
export function readSettings(values: unknown): Record<string, string> {
  const result: Record<string, string> = {}
  for (const [name, value] of Object.entries(readOptions('settings', values))) {
    if (typeof value !== 'string') {
      throw fail('bad_argument', `setting "${name}" is ${shown(value)}, which is not text`, {
        hint: `Write it as in postgresql.conf, in quotes.`,
      })
    }
    result[name] = value
  }
  return result
}

/** An object, empty where none is given. */
export function readOptions<T extends object>(what: string, value: T | undefined): T
export function readOptions(what: string, value: unknown): Readonly<Record<string, unknown>>
export function readOptions(what: string, value: unknown): object {
  if (value === undefined) return {}
  if (typeof value === 'object' && value !== null) return value
  throw fail('bad_argument', `${what} ${shown(value)} is not an object`)
}

export function readSignal(value: unknown): AbortSignal | undefined {
  if (value === undefined || value instanceof AbortSignal) return value
  throw fail('bad_argument', 'signal is not an AbortSignal', {
    hint: 'Give the `signal` of the controller.',
  })
}
