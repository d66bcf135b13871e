/**
 * Goal: the folders of an app stand on floors: none imports from one that imports from it. Method: every import is
 * read.
 */
import { readFile, readdir } from 'node:fs/promises'
import { dirname, join, normalize, sep } from 'node:path'
import { expect, test } from 'vitest'
import { ROOT } from './run-command.ts'

const IMPORT = /(?:from|import\() ?'(\.{1,2}\/[^']+\.ts)'/g

/** By room: the rooms that its files import from. Files that lie in src/ itself are the app's top. */
async function importsOf(app: string): Promise<Map<string, Set<string>>> {
  const source = join(ROOT, 'apps', app, 'src')
  const imports = new Map<string, Set<string>>()
  for (const entry of await readdir(source, { recursive: true })) {
    if (!entry.endsWith('.ts') || entry.endsWith('.test.ts') || !entry.includes(sep)) continue
    const [room = ''] = entry.split(sep)
    const known = imports.get(room) ?? new Set<string>()
    imports.set(room, known)
    const text = await readFile(join(source, entry), 'utf8')
    for (const [, path = ''] of text.matchAll(IMPORT)) {
      const target = normalize(join(dirname(entry), path))
      if (target.includes(sep) && !target.startsWith('..')) known.add(target.split(sep)[0] ?? '')
    }
    known.delete(room)
  }
  return imports
}

/** Rooms of a circle, or undefined. */
function circleIn(imports: ReadonlyMap<string, ReadonlySet<string>>): string[] | undefined {
  const left = new Map(imports)
  for (;;) {
    const free = [...left].find(([, known]) => ![...known].some((room) => left.has(room)))
    if (free === undefined) return left.size === 0 ? undefined : [...left.keys()]
    left.delete(free[0])
  }
}

test.each(['compute-proxy', 'control-plane', 'pageserver', 'safekeeper'])('%s', async (app) => {
  const imports = await importsOf(app)
  expect(imports.size).toBeGreaterThan(4)
  expect(circleIn(imports)).toBeUndefined()
})

test('a circle is seen', () => {
  const imports = new Map([
    ['a', new Set(['b'])],
    ['b', new Set(['c'])],
    ['c', new Set(['b'])],
    ['d', new Set(['a'])],
  ])
  expect(circleIn(imports)?.toSorted()).toEqual(['a', 'b', 'c', 'd'])
})
