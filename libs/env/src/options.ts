/**
 * Settings of an app as one table: from it come the flags, the environment variables and `--help`. A flag wins over
 * the environment, and that over the default. Names are camelCase in the table (`dataDir`), `--data-dir` as a flag,
 * `UNDERSTORY_SAFEKEEPER_DATA_DIR` in the environment.
 */
import { fail } from '@understory/base'
import { z } from 'zod'

export interface OptionSpec<T> {
  /** Reads the text of a flag or variable; its message says what is expected. */
  readonly read: (text: string) => T
  /** Undefined: the option must be given, unless `optional`. */
  readonly fallback?: T
  readonly optional?: boolean
  /** What `--help` shows for the value, such as `DIR`. */
  readonly placeholder: string
  readonly help: string
}

type OptionTable = Readonly<Record<string, OptionSpec<unknown>>>
export type OptionValues<T extends OptionTable> = {
  readonly [K in keyof T]: T[K] extends { optional: true }
    ? ReturnType<T[K]['read']> | undefined
    : ReturnType<T[K]['read']>
}

const checked =
  <T>(schema: z.ZodType<T>) =>
  (text: string): T => {
    const { success, data, error } = schema.safeParse(text)
    if (success) return data
    throw fail('bad_argument', error.issues[0]?.message ?? 'it is malformed')
  }

/** Readers of the usual kinds of values. */
export const text: (input: string) => string = checked(z.string().min(1, 'it must not be empty'))
export const wholeNumber = (min: number, max: number): ((input: string) => number) =>
  checked(
    z.coerce
      .number(`it must be a number`)
      .int('it must be a whole number')
      .min(min, `it must be at least ${min}`)
      .max(max, `it must be at most ${max}`),
  )
export const oneOf = <const T extends readonly [string, ...string[]]>(
  ...values: T
): ((input: string) => T[number]) =>
  checked(z.enum(values, `it must be one of ${values.join(', ')}`)) as (input: string) => T[number]
/** host:port; port 0 asks for any free one. */
export const hostPort: (input: string) => { readonly host: string; readonly port: number } = checked(
  z
    .string()
    .regex(/^[^:\s]+:\d{1,5}$/, 'it must be host:port')
    .transform((value) => ({
      host: value.slice(0, value.lastIndexOf(':')),
      port: Number(value.slice(value.lastIndexOf(':') + 1)),
    }))
    .refine(({ port }) => port <= 65_535, 'its port must be at most 65535'),
)

const kebab = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

export function helpText(app: string, table: OptionTable): string {
  const rows = Object.entries(table).map(([name, option]) => {
    const value =
      option.fallback === undefined
        ? option.optional === true
          ? 'optional'
          : 'required'
        : `default ${describe(option.fallback)}`
    return [`  --${kebab(name)} ${option.placeholder}`, `${option.help} (${value})`] as const
  })
  const width = Math.max(...rows.map(([flag]) => flag.length))
  const lines = rows.map(([flag, help]) => `${flag.padEnd(width)}  ${help}`)
  return `understory ${app}\n\n${lines.join('\n')}\n\nEach is also read from the environment as UNDERSTORY_${envName(app)}_<NAME>.\n`
}

const envName = (name: string): string => kebab(name).replaceAll('-', '_').toUpperCase()
function describe(value: unknown): string {
  if (typeof value === 'object' && value !== null && 'host' in value && 'port' in value)
    return `${String(value.host)}:${String(value.port)}`
  return String(value)
}

/**
 * The values, or the help text where `--help` was given. Errors: `bad_argument` that names the option, what
 * was given and what is expected.
 */
export function parseOptions<T extends OptionTable>(
  app: string,
  table: T,
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
):
  | { readonly kind: 'values'; readonly values: OptionValues<T> }
  | { readonly kind: 'help'; readonly text: string } {
  const given = readFlags(app, table, argv)
  if (given === 'help') return { kind: 'help', text: helpText(app, table) }
  const values: Record<string, unknown> = {}
  for (const [name, option] of Object.entries(table)) {
    const variable = `UNDERSTORY_${envName(app)}_${envName(name)}`
    const flag = given.get(name)
    const input = flag ?? environment[variable]
    if (input !== undefined) {
      values[name] = readValue(option, input, flag === undefined ? variable : `--${kebab(name)}`)
    } else if (option.fallback !== undefined) {
      values[name] = option.fallback
    } else if (option.optional !== true) {
      throw fail('bad_argument', `option --${kebab(name)} is missing`, {
        hint: `Give it, or set ${variable}; see --help.`,
      })
    }
  }
  return { kind: 'values', values: values as OptionValues<T> }
}

function readValue(option: OptionSpec<unknown>, input: string, where: string): unknown {
  try {
    return option.read(input)
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw fail('bad_argument', `option ${where} cannot be "${input}": ${reason}`, {
      hint: 'See --help.',
      cause,
    })
  }
}

function readFlags(app: string, table: OptionTable, argv: readonly string[]): Map<string, string> | 'help' {
  const names = new Map(Object.keys(table).map((name) => [`--${kebab(name)}`, name]))
  const given = new Map<string, string>()
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i] as string
    if (argument === '--help' || argument === '-h') return 'help'
    const equals = argument.indexOf('=')
    const flag = equals === -1 ? argument : argument.slice(0, equals)
    const name = names.get(flag)
    if (name === undefined) {
      throw fail('bad_argument', `"${flag}" is not an option of ${app}`, { hint: 'See --help.' })
    }
    const value = equals === -1 ? argv[++i] : argument.slice(equals + 1)
    if (value === undefined)
      throw fail('bad_argument', `option ${flag} needs a value`, { hint: 'See --help.' })
    given.set(name, value)
  }
  return given
}
