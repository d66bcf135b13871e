/** How an app is run: as its package.json says under "nodeFlags", which the image's start.mjs heeds as well. */
import { readFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const APPS = resolve(dirname(fileURLToPath(import.meta.url)), '..', '..', 'apps')

export type AppName = 'safekeeper' | 'pageserver' | 'control-plane' | 'compute-proxy'

/** Program and arguments; the app's own follow. */
export async function appCommand(app: AppName): Promise<string[]> {
  const { nodeFlags = [] } = JSON.parse(await readFile(join(APPS, app, 'package.json'), 'utf8')) as {
    nodeFlags?: readonly string[]
  }
  return [
    process.execPath,
    '--disable-warning=ExperimentalWarning',
    ...nodeFlags,
    join(APPS, app, 'src/main.ts'),
  ]
}
