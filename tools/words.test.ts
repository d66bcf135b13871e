/**
 * Goal: the house speaks the English of the field, in sentences with a subject. Method: a list of words that other
 * engineers stumble over, looked for in code, comments, messages, documents and deployment; identifiers are taken apart
 * first. A word that a file has to keep, such as a stored field's name, is counted; the counts may only fall.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ROOT } from './run-command.ts'

/** Words, and what to write in their place. */
const WORDS: readonly (readonly [RegExp, string])[] = [
  [/\b(tells?|told|telling)\b/gi, 'report, return, notify, announce, say'],
  [/\blet(s|ting)? (\w+ )?go\b/gi, 'release, drop, trim'],
  [/\b(gives?|gave|given|giving)( \w+)?[ -]up\b/gi, 'cancel, abandon, discard, end'],
  [/\bmend(s|ed|ing)?\b/gi, 'repair, correct'],
  [/\bheed(s|ed|ing)?\b/gi, 'handle, react to'],
  [/\banew\b/gi, 'again, replace, initialize'],
  [/\b(births?|born|unborn|bears?|bore)\b/gi, 'bootstrap'],
  [/\bwish(es|ed|ing)?\b/gi, 'request'],
  [/\b(go|goes|went|gone|going) on\b/gi, 'continue'],
  [/\b(whoever|whomever|Whatever)\b/g, 'name the actor'],
  [/(?<![`'"])\b(nobody|somebody|everybody|anybody|someone|anyone|everyone)\b(?![`'"])/gi, 'name the actor'],
  [/(?<!\bthere )\b(is|are|was|were) no (?!longer|more|later|older|newer|larger|smaller)\b/gi, 'is not a'],
  [/\b(hears?|heard) (of|from|that|about)\b/gi, 'get, learn of'],
  [/\bmeanwhile\b/gi, 'until then, during it, since then'],
  [/(\/\/|\/\*\*|\. |: )\s*(One|Those) (that|who|whose)\b/g, 'repeat the noun'],
  [/(\/\/|\/\*\*)\s*What (is|are|was|were|has|had|does|comes|came|keeps|stays|lies)\b/g, 'name the thing'],
]

/** Places that are left, by file: names on the wire and in stored documents, and names of others. */
const ALLOWED: Readonly<Record<string, number>> = {
  'CHANGELOG.md': 5, // names of before
  'apps/compute-proxy/src/compute/bootstrap.ts': 2,
  'apps/compute-proxy/src/compute/state-file.ts': 2, // stored
  'apps/compute-proxy/src/host/earlier-layout.test.ts': 1,
  'apps/compute-proxy/src/serve/service.ts': 1,
  'apps/control-plane/src/reconcile/steps/compute-steps.test.ts': 2,
  'apps/control-plane/src/reconcile/steps/restart.ts': 1,
  'docs/decisions/2026-11-29-owners-of-state.md': 1, // a method of other actor systems
  'libs/storage/src/layer/index-part.ts': 5, // stored
  'proto/understory/v1/compute.proto': 1, // on the wire
}

const looked = execFileSync('git', ['ls-files', '-z'], { cwd: ROOT, encoding: 'utf8' })
  .split('\0')
  .filter(
    (path) =>
      /\.(ts|mjs|md|proto|yaml|yml|tpl|txt|json|sh)$/.test(path) &&
      !/\/src\/gen\/|\/licenses\/|package-lock\.json$|^tools\/words\.test\.ts$/.test(path) &&
      existsSync(join(ROOT, path)),
  )

/** `timelineBorn` and `timeline_born` as words. */
const apart = (text: string): string => text.replace(/([a-z])([A-Z])/g, '$1 $2').replaceAll('_', ' ')

const found = new Map(
  looked.flatMap((path): [string, string[]][] => {
    const places = readFileSync(join(ROOT, path), 'utf8')
      .split('\n')
      .flatMap((line, i) =>
        WORDS.flatMap(([word, instead]) =>
          [...apart(line).matchAll(word)].map(([text]) => `${path}:${i + 1}: "${text}" (${instead})`),
        ),
      )
    return places.length === 0 ? [] : [[path, places]]
  }),
)

test('no text has a word of the list beyond those that are left', () => {
  expect(looked.length).toBeGreaterThan(800)
  const beyond = [...found].filter(([path, places]) => places.length > (ALLOWED[path] ?? 0))
  expect(beyond.flatMap(([, places]) => places)).toEqual([])
})

test('a place that is gone leaves the list', () => {
  const left = Object.entries(ALLOWED).filter(([path, count]) => (found.get(path)?.length ?? 0) < count)
  expect(left.map(([path]) => `${path}: ${found.get(path)?.length ?? 0}`)).toEqual([])
})
