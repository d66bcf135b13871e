/**
 * Goal: no message changes unnoticed. Method: the compiled descriptor of every file of proto/, without comments, is
 * hashed together with the versions of the long conversations and compared with what was acknowledged here.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { FOLLOW_VERSIONS, PROPOSE_VERSIONS, SUBSCRIBE_VERSIONS } from './protocol-version.ts'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))

const ACKNOWLEDGED: Readonly<Record<string, string>> = {
  'understory/v1/broker.proto': 'f737a0d7b0108ac8df195e132c9d3f20',
  'understory/v1/common.proto': 'ba8d09336ee141520120d3c9e08e8b4a',
  'understory/v1/compute.proto': '17d5a1d1636bf8a1e0983f645fd8605f',
  'understory/v1/control.proto': '4c163e6cd54cd57156f688b4f7f41043',
  'understory/v1/pageserver.proto': 'aa45c0c993a3eacd4d3d08ecbec93bd6',
  'understory/v1/safekeeper.proto': '45e017ded9d358e5544fd984e4758504',
}

const WHAT_TO_DO = `A message of proto/ has changed, or the version of a conversation has.
1. Ask what a program of the release before does with it, and what this one does with a message of that release: a rolling
   upgrade has both. A new field is safe where its zero means "as before"; nothing may be renumbered, retyped or reused.
2. Where the two would misunderstand one another in Propose, FollowWal or SubscribeWal, add a version: raise \`max\` of
   PROPOSE_VERSIONS, FOLLOW_VERSIONS or SUBSCRIBE_VERSIONS (protocol-version.ts), and keep the old behaviour for peers that choose the old one.
3. Write in CHANGELOG.md what was added, run \`npm run gen\`, and put the new hash of the file into ACKNOWLEDGED.`

interface Descriptors {
  readonly file: readonly { readonly name: string }[]
}

/** SHA-256 by file name. */
function descriptorHashes(): Record<string, string> {
  const text = execFileSync(
    'node_modules/.bin/buf',
    ['build', '--exclude-source-info', '-o', '-#format=json'],
    {
      cwd: ROOT,
      encoding: 'utf8',
      maxBuffer: 64 << 20,
    },
  )
  const versions = JSON.stringify({
    propose: PROPOSE_VERSIONS,
    subscribe: SUBSCRIBE_VERSIONS,
    follow: FOLLOW_VERSIONS,
  })
  const hashOf = (file: object): string =>
    createHash('sha256')
      .update(JSON.stringify(file) + versions)
      .digest('hex')
      .slice(0, 32)
  return Object.fromEntries((JSON.parse(text) as Descriptors).file.map((file) => [file.name, hashOf(file)]))
}

test('the messages are those that were acknowledged', () => {
  expect(descriptorHashes(), WHAT_TO_DO).toEqual(ACKNOWLEDGED)
})
