/** How an app is run: as its package.json says under "nodeFlags", which the image's start.mjs uses as well. */
import { readFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..', '..')

export type AppName = 'safekeeper' | 'pageserver' | 'control-plane' | 'compute-proxy'

/** Program and arguments, of this checkout or of another one at `root`; the app's own follow. */
export async function appCommand(app: AppName, root: string = ROOT): Promise<string[]> {
  const folder = join(root, 'apps', app)
  const { nodeFlags = [] } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as {
    nodeFlags?: readonly string[]
  }
  return [
    process.execPath,
    '--disable-warning=ExperimentalWarning',
    ...nodeFlags,
    join(folder, 'src/main.ts'),
  ]
}
