// Goal: no option, default or word of a service's `--help` changes unnoticed, because charts, scripts and people rely
// on them. Method: the text of each table beside the one that is kept in testdata/help; `-u` writes it again.
import { join } from 'node:path'
import { helpText } from '@understory/env'
import { expect, test } from 'vitest'
import { HOST_CONFIG, POD_CONFIG, RUN_CONFIG } from '../apps/compute-proxy/src/config.ts'
import { CONFIG as CONTROL_PLANE } from '../apps/control-plane/src/config.ts'
import { CONFIG as PAGESERVER } from '../apps/pageserver/src/config.ts'
import { CONFIG as SAFEKEEPER } from '../apps/safekeeper/src/config.ts'

test.for([
  ['safekeeper', 'safekeeper', SAFEKEEPER],
  ['pageserver', 'pageserver', PAGESERVER],
  ['control-plane', 'control-plane', CONTROL_PLANE],
  ['compute-proxy host', 'compute-proxy', HOST_CONFIG],
  ['compute-proxy run', 'compute-proxy', RUN_CONFIG],
  ['compute-proxy pod', 'compute-proxy', POD_CONFIG],
] as const)('understory %s --help', async ([command, app, table]) => {
  const kept = join(import.meta.dirname, 'testdata/help', `${command.replace(' ', '-')}.txt`)
  await expect(helpText(app, table)).toMatchFileSnapshot(kept)
})
