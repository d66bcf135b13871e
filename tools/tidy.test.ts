// Goal: the rules of the house that no tool knows. Method: look at every file that git tracks.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ROOT } from './run-command.ts'

const tracked = execFileSync('git', ['ls-files', '-z'], { cwd: ROOT, encoding: 'utf8' })
  .split('\0')
  .filter((path) => path !== '' && existsSync(join(ROOT, path)))
const sources = tracked.filter((path) => /\.(ts|mjs)$/.test(path) && !path.includes('/src/gen/'))
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8')

test('enough files are looked at', () => {
  expect(sources.length).toBeGreaterThan(200)
})

test('nothing unfinished is on main', () => {
  // Spelt in parts, because this file is looked at too.
  const words = new RegExp(
    `\\b(${['TO', 'FIX'].map((start) => `${start}${start === 'TO' ? 'DO' : 'ME'}`).join('|')})\\b`,
  )
  expect(sources.filter((path) => words.test(read(path)))).toEqual([])
})

test('no package or folder is a drawer for anything', () => {
  expect(tracked.filter((path) => /(^|\/)(utils?|common|shared|helpers?)\//.test(path))).toEqual([])
})

test('every app has a page about it', () => {
  const apps = readdirSync(join(ROOT, 'apps'))
  expect(apps.filter((app) => !existsSync(join(ROOT, 'apps', app, 'README.md')))).toEqual([])
})

/** Product code; redo and its tables are as long as Postgres's. */
const products = sources.filter(
  (path) => /^(apps|libs)\/[^/]+\/src\//.test(path) && !path.endsWith('.test.ts'),
)
const sized = products.filter((path) => !path.startsWith('libs/postgres/src/redo/'))

test('no file is larger than a reader or a clone can handle', () => {
  const linesOf = (path: string): number => read(path).split('\n').length - 1
  const long = sized.filter((path) => linesOf(path) > 400)
  expect(long).toEqual([])
  expect(sources.filter((path) => linesOf(path) >= 800)).toEqual([])
  const large = tracked.filter(
    (path) => path !== 'package-lock.json' && statSync(join(ROOT, path)).size > 1024 * 1024,
  )
  expect(large).toEqual([])
})

test('no class is longer than 250 lines', () => {
  const lengths = new Map<string, number>()
  for (const path of sized) {
    for (const [text, name = ''] of read(path).matchAll(/^(?:export )?(?:abstract )?class (\w+)[^]*?\n\}$/gm))
      lengths.set(name, text.split('\n').length)
  }
  expect(lengths.size).toBeGreaterThan(100)
  expect([...lengths].filter(([, lines]) => lines > 250)).toEqual([])
})

/**
 * What the world outside is reached by, and the files that are the seams to it. Other product code gets it handed in.
 */
const SEAMS = {
  clock: {
    what: /\b(Date\.now|setTimeout|setInterval|performance\.now|Math\.random)\b/,
    where: [
      'apps/cli/src/commands/smoke-test.ts', // names what it makes by the time
      'apps/compute-proxy/src/commands/run.ts', // holds its process open
      'apps/compute-proxy/src/wal-proposer/commit-trace.ts', // measures, on the time of spans
      'apps/pageserver/src/images/image-worker.ts', // a thread: it gets no clock
      'apps/[^/]+/src/telemetry/', // measures, on the time of spans
      'libs/env/src/clock.ts',
      'libs/rpc/src/',
      'libs/sdk/src/', // runs in programs of others, which have no seams
      'libs/telemetry/src/',
    ],
  },
  disk: {
    what: /from 'node:fs(\/promises)?'/,
    where: [
      'apps/cli/src/basebackup.ts',
      'apps/compute-proxy/src/(commands|host|postgres)/', // Postgres's files, its owners and its processes
      'apps/control-plane/src/computes/kubernetes/', // files of its pod
      'libs/env/src/',
      'libs/object-store/src/local/store.ts',
      'libs/pgdata/src/(data-directory|standalone-configuration).ts',
      'libs/rpc/src/(certificate-files|token-file).ts',
      'libs/simulation/src/mutation.ts', // reads the source that it changes
      'libs/telemetry/src/process-observer.ts',
    ],
  },
  network: {
    what: /from 'node:net'/,
    where: [
      'apps/compute-proxy/src/commands/free-port.ts',
      'apps/compute-proxy/src/postgres/(certificate|sql-port).ts',
      'apps/compute-proxy/src/wal-proposer/replication.ts',
      'libs/env/src/untrusted-folder.ts', // recognizes a socket
    ],
  },
  processes: {
    what: /from 'node:child_process'/,
    where: [
      'apps/compute-proxy/src/host/(host|compute-process|spares).ts',
      'apps/compute-proxy/src/postgres/(child-launcher|compute-users|lease).ts',
      'libs/env/src/(folder-lock|user).ts',
    ],
  },
} as const

test.each(Object.entries(SEAMS))('product code reaches the %s by its seams', (_, { what, where }) => {
  const seams = where.map((path) => new RegExp(`^${path}`))
  const code = (path: string): string => read(path).replace(/^\s*(\/\/|\/?\*).*$/gm, '')
  const reaching = products.filter((path) => what.test(code(path)))
  expect(reaching.filter((path) => !seams.some((seam) => seam.test(path)))).toEqual([])
  // A seam that is not one any more leaves the list.
  expect(where.filter((_path, i) => !reaching.some((path) => seams[i]!.test(path)))).toEqual([])
})

/** Lines above 120 characters that are left: texts and tables, which oxfmt does not break. It may only fall. */
const LONG_LINES_COUNT = 190

test('lines have at most 120 characters', () => {
  const long = sources.flatMap((path) =>
    read(path)
      .split('\n')
      .filter((line) => line.length > 120),
  )
  expect(long.length).toBeLessThanOrEqual(LONG_LINES_COUNT)
})

/** From the commit after this on. */
const SUBJECTS_SINCE = '81d1ceb'

test('commit subjects have at most 72 characters', () => {
  const git = (...args: readonly string[]): string =>
    execFileSync('git', args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  let subjects: string[]
  try {
    git('merge-base', '--is-ancestor', SUBJECTS_SINCE, 'HEAD')
    subjects = git('log', '--format=%s', `${SUBJECTS_SINCE}..HEAD`).split('\n')
  } catch {
    // A copy without that history has nothing to look at.
    return
  }
  expect(subjects.filter((subject) => subject.length > 72)).toEqual([])
})

test('an app is composed in main.ts alone', () => {
  const elsewhere = sources.filter(
    (path) =>
      /^apps\/[^/]+\/src\//.test(path) &&
      !path.endsWith('/main.ts') &&
      !path.endsWith('.test.ts') &&
      /process\.(env|argv)\b/.test(read(path)),
  )
  expect(elsewhere).toEqual([])
})

test('every page that a document points to is there', () => {
  const pages = tracked.filter((path) => path.endsWith('.md'))
  const broken = pages.flatMap((page) =>
    [...read(page).matchAll(/\]\((?!https?:|#)([^)#]+)/g)]
      .map((match) => join(page, '..', match[1] as string))
      .filter((target) => !existsSync(join(ROOT, target)))
      .map((target) => `${page} -> ${target}`),
  )
  expect(broken).toEqual([])
})
