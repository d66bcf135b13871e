// Goal: a wrong flag is refused in one line that names it. Method: a small table.
import { expect, test } from 'vitest'
import { hostPort, oneOf, parseOptions, text, wholeNumber } from './options.ts'

const table = {
  dataDir: { read: text, placeholder: 'DIR', help: 'where files go' },
  listen: {
    read: hostPort,
    fallback: { host: '127.0.0.1', port: 0 },
    placeholder: 'HOST:PORT',
    help: 'address',
  },
  broker: { read: text, optional: true, placeholder: 'URL', help: 'broker' },
  threads: { read: wholeNumber(1, 8), fallback: 2, placeholder: 'N', help: 'threads' },
  mode: { read: oneOf('eager', 'lazy'), fallback: 'eager', placeholder: 'MODE', help: 'mode' },
} as const

const parse = (argv: string[], environment: Record<string, string> = {}) =>
  parseOptions('safekeeper', table, argv, environment)

test('a flag wins over the environment, and that over the default', () => {
  const result = parse(['--data-dir', '/a', '--threads=3'], {
    UNDERSTORY_SAFEKEEPER_DATA_DIR: '/b',
    UNDERSTORY_SAFEKEEPER_MODE: 'lazy',
  })
  expect(result).toEqual({
    kind: 'values',
    values: { dataDir: '/a', listen: { host: '127.0.0.1', port: 0 }, threads: 3, mode: 'lazy' },
  })
})

test.each([
  [['--data-dirr', 'x'], '"--data-dirr" is not an option of safekeeper'],
  [['--data-dir'], 'option --data-dir needs a value'],
  [[], 'option --data-dir is missing'],
  [['--data-dir', '/a', '--threads', 'many'], 'option --threads cannot be "many": it must be a number'],
  [['--data-dir', '/a', '--threads', '9'], 'option --threads cannot be "9": it must be at most 8'],
  [['--data-dir', '/a', '--listen', 'nowhere'], 'option --listen cannot be "nowhere": it must be host:port'],
  [['--data-dir', '/a', '--mode', 'fast'], 'option --mode cannot be "fast": it must be one of eager, lazy'],
])('%j is refused: %s', (argv, message) => {
  expect(() => parse(argv)).toThrow(message)
})

test('help names every option with its default and its variable', () => {
  const result = parse(['--help'])
  expect(result.kind === 'help' && result.text).toMatch(
    /--threads N +threads \(default 2\)[\s\S]*UNDERSTORY_SAFEKEEPER_<NAME>/,
  )
})
