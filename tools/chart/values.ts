/** The text of values.yaml about each value, and the schema with the same words in it. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { CHART } from './render.ts'

export const SCHEMA: string = join(CHART, 'values.schema.json')

interface ValueLine {
  /** `safekeeper.persistence.size`. */
  readonly path: string
  /** The comment right above it, in one line; undefined where it does not begin with `# --`. */
  readonly description: string | undefined
}

export interface Schema {
  readonly description?: string
  readonly type?: string | readonly string[]
  readonly $ref?: string
  readonly required?: readonly string[]
  readonly properties?: Readonly<Record<string, Schema>>
  readonly definitions?: Readonly<Record<string, Schema>>
  readonly [other: string]: unknown
}

/** Every key that has a line of its own. Keys below free-form values (resources, lists) are not ours to describe. */
export async function readValueLines(): Promise<readonly ValueLine[]> {
  const found: ValueLine[] = []
  const above: { readonly indent: number; readonly key: string }[] = []
  let comment: string[] = []
  for (const line of (await readFile(join(CHART, 'values.yaml'), 'utf8')).split('\n')) {
    const [, indentation = '', text] = /^( *)# ?(.*)$/.exec(line) ?? []
    if (text !== undefined) {
      comment = text.startsWith('-- ') ? [text.slice(3)] : comment.length === 0 ? [] : [...comment, text]
      continue
    }
    const [, spaces = indentation, key] = /^( *)([A-Za-z]\w*):/.exec(line) ?? []
    if (key !== undefined) {
      while (above.length > 0 && (above.at(-1)?.indent ?? 0) >= spaces.length) above.pop()
      above.push({ indent: spaces.length, key })
      const keys = above.map((each) => each.key)
      if (!keys.slice(0, -1).includes('resources'))
        found.push({
          path: keys.join('.'),
          description: comment.length === 0 ? undefined : comment.join(' '),
        })
    }
    comment = []
  }
  return found
}

export const readSchema = async (): Promise<Schema> => JSON.parse(await readFile(SCHEMA, 'utf8')) as Schema

/** The place of a value in the schema, through definitions. */
export function schemaOf(root: Schema, path: string): Schema | undefined {
  let at: Schema | undefined = root
  for (const key of path.split('.')) at = resolve(root, at)?.properties?.[key]
  return at
}

export function resolve(root: Schema, schema: Schema | undefined): Schema | undefined {
  const name = schema?.$ref?.replace('#/definitions/', '')
  return name === undefined ? schema : root.definitions?.[name]
}

/** Every value that has properties of its own, or is a property of such. */
export function schemaPaths(root: Schema, schema: Schema = root, prefix = ''): string[] {
  return Object.entries(resolve(root, schema)?.properties ?? {}).flatMap(([key, inner]) => {
    if (/^\d+$/.test(key) || key === 'requests' || key === 'limits') return []
    return [`${prefix}${key}`, ...schemaPaths(root, inner, `${prefix}${key}.`)]
  })
}

/**
 * The schema with the words of values.yaml, and with all as required that is neither a list nor a free map. What
 * several values have in common gets the words of the first of them.
 */
export function describeSchema(root: Schema, lines: readonly ValueLine[]): Schema {
  const wordsOf = new Map(lines.map(({ path, description }) => [path, description]))
  const isNeeded = (schema: Schema): boolean => {
    const { type, properties } = resolve(root, schema) ?? {}
    return properties !== undefined || (type !== 'array' && type !== 'object')
  }
  const describe = (schema: Schema, path: string | undefined, own: string | undefined): Schema => {
    const { description: _, properties, required: __, definitions: ___, ...rest } = schema
    const words = own === undefined ? {} : { description: own }
    if (properties === undefined) return { ...words, ...rest }
    const inner = Object.entries(properties).map(([key, each]) => {
      const innerPath = path === undefined ? undefined : path === '' ? key : `${path}.${key}`
      return [key, describe(each, innerPath, wordsOf.get(innerPath ?? '') ?? each.description)] as const
    })
    const needed = Object.keys(properties).filter((key) => isNeeded(properties[key] as Schema))
    return { ...words, ...rest, properties: Object.fromEntries(inner), required: needed }
  }
  const firstPath = (name: string): string | undefined =>
    lines.find(({ path }) => schemaOf(root, path)?.$ref === `#/definitions/${name}`)?.path
  const definitions = Object.entries(root.definitions ?? {}).map(
    ([name, each]) => [name, describe(each, firstPath(name), each.description)] as const,
  )
  return { ...describe(root, '', undefined), definitions: Object.fromEntries(definitions) }
}
