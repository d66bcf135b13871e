// Goal: docs/formats.md says what the code writes. Method: its tables, sizes and versions are read and compared.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { KEY_BYTES } from '@understory/storage'
import { expect, test } from 'vitest'
import { ROOT } from './run-command.ts'

const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8')
const page = read('docs/formats.md')

/** The text of a section, from its heading to the next. */
function section(title: string): string {
  const found = page.split(/^## /m).find((text) => text.startsWith(title))
  expect(found, `section "${title}"`).toBeDefined()
  return found ?? ''
}

/** Rows of numbers: offset and size of each field. */
const fieldsOf = (text: string): (readonly [number, number])[] =>
  [...text.matchAll(/^\| (\d+) \| (\d+) \|/gm)].map(([, offset, size]) => [Number(offset), Number(size)])

function expectWithoutGaps(fields: readonly (readonly [number, number])[]): number {
  let end = 0
  for (const [offset, size] of fields) {
    expect(offset).toBe(end)
    end = offset + size
  }
  return end
}

test('the fields of a key follow one another, and fill it', () => {
  const fields = fieldsOf(section('Key'))
  expect(fields).toHaveLength(6)
  expect(expectWithoutGaps(fields)).toBe(KEY_BYTES)
})

test('the fields of a control file follow one another', () => {
  expect(expectWithoutGaps(fieldsOf(section('Safekeeper control file')))).toBeGreaterThan(72)
})

test.each([
  ['Layer file', 'libs/storage/src/layer/layer-format.ts', 'LayerHeader', /\| header \| (\d+) \|/],
  ['Layer file', 'libs/storage/src/layer/layer-format.ts', 'LayerFooter', /\| footer \| (\d+) \|/],
  ['Layer file', 'libs/storage/src/layer/layer-format.ts', 'LayerFooterV1', /footer of (\d+) bytes/],
  ['Checkpoint tracker', 'libs/postgres/src/cluster/tracker-codec.ts', 'EncodedState', /^(\d+) bytes/m],
  ["Replication origin's", 'libs/storage/src/key/replication-origin.ts', 'OriginProgress', /^(\d+) bytes/m],
])('%s: %s, %s', (title, path, struct, size) => {
  const written = new RegExp(`const ${struct} = struct\\((\\d+),`).exec(read(path))?.[1]
  expect(written, struct).toBeDefined()
  expect(size.exec(section(title))?.[1]).toBe(written)
})

test.each([
  ['Layer file', 'libs/storage/src/layer/layer-format.ts', 'LAYER_VERSION'],
  ['Checkpoint tracker', 'libs/postgres/src/cluster/tracker-codec.ts', 'FORMAT_VERSION'],
  ["Replication origin's", 'libs/storage/src/key/replication-origin.ts', 'FORMAT_VERSION'],
])('%s has the version of %s', (title, path, constant) => {
  const written = new RegExp(`const ${constant} = (\\d+)`).exec(read(path))?.[1]
  expect(written, constant).toBeDefined()
  expect(/version (\d+)/.exec(section(title))?.[1]).toBe(written)
})
