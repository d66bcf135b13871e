/** `npm run docs:dashboards`: dashboards and alert rules of the chart, from boards.ts and alerts.ts. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { ROOT } from '../run-command.ts'
import { ALERTS, rulesOf } from './alerts.ts'
import { BOARDS, buildBoard } from './boards.ts'

const FILES = join(ROOT, 'deploy/helm/understory/files')

/** Path and text of every file. */
export function renderedFiles(): readonly (readonly [path: string, text: string])[] {
  return [
    ...BOARDS.map(
      (board) =>
        [
          join(FILES, 'dashboards', `${board.uid}.json`),
          `${JSON.stringify(buildBoard(board), undefined, 1)}\n`,
        ] as const,
    ),
    [join(FILES, 'alerts.yaml'), stringify(rulesOf(ALERTS), { lineWidth: 0 })],
  ]
}

if (import.meta.main) {
  if (process.argv.includes('--help')) {
    process.stdout.write(
      'Usage: npm run docs:dashboards: writes the dashboards and alert rules of the chart.\n',
    )
  } else {
    for (const [path, text] of renderedFiles()) writeFileSync(path, text)
  }
}
