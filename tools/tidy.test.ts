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

test('no file is larger than a reader or a clone can bear', () => {
  expect(sources.filter((path) => read(path).split('\n').length > 800)).toEqual([])
  const large = tracked.filter(
    (path) => path !== 'package-lock.json' && statSync(join(ROOT, path)).size > 1024 * 1024,
  )
  expect(large).toEqual([])
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
