/**
 * A minimal Debian with Node, for where no base image can be pulled: by debootstrap, from the mirror that this
 * machine's own apt uses, once, into the cache.
 */
import { existsSync } from 'node:fs'
import { chmod, copyFile, readFile, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fail } from '@understory/base'
import { cached, runCommand } from '@understory/testcontainers'
import { ROOT } from '../run-command.ts'

const SUITE = 'bookworm'
const TIMEOUT_MS = 20 * 60_000
/** Nothing at run time looks at these. */
const UNNEEDED = [
  'var/cache/apt',
  'var/lib/apt/lists',
  'usr/share/doc',
  'usr/share/man',
  'usr/share/locale',
  'var/log',
]

/** Why there can be none, or undefined. */
export function debianRootMissing(): string | undefined {
  if (process.getuid?.() !== 0) return 'debootstrap needs root'
  const isThere = ['/usr/sbin/debootstrap', '/usr/bin/debootstrap'].some((path) => existsSync(path))
  return isThere ? undefined : 'debootstrap is not installed'
}

/** `packages`: more of Debian's. */
export function debianRoot(packages: readonly string[] = []): Promise<string> {
  const name = ['debian', SUITE, ...packages].join('-')
  return cached(name, async (path) => {
    const missing = debianRootMissing()
    if (missing !== undefined) {
      throw fail('precondition', `no base image can be made: ${missing}`, {
        hint: 'Use a machine with Docker, or name a root file system with --base-root DIR.',
      })
    }
    const include = ['ca-certificates', 'libstdc++6', ...packages].join(',')
    await runCommand({
      name: 'debootstrap',
      command: 'debootstrap',
      args: ['--variant=minbase', `--include=${include}`, SUITE, path, await mirror()],
      timeoutMs: TIMEOUT_MS,
    })
    for (const folder of UNNEEDED) await rm(join(path, folder), { recursive: true, force: true })
    const node = join(path, 'usr/local/bin/node')
    await copyFile(join(ROOT, 'node_modules/node/bin/node'), node)
    await chmod(node, 0o755)
  })
}

/** The first one in apt's own lists. */
async function mirror(): Promise<string> {
  const folder = '/etc/apt/sources.list.d'
  const more = (await readdir(folder).catch(() => [])).map((name) => join(folder, name))
  for (const file of ['/etc/apt/sources.list', ...more]) {
    const content = await readFile(file, 'utf8').catch(() => '')
    const found = /^(?:URIs: *|deb +(?:\[[^\]]*\] +)?)(https?:\/\/\S+)/m.exec(content)
    if (found?.[1] !== undefined) return found[1]
  }
  throw fail('precondition', "apt's lists name no mirror", {
    hint: 'Name a root file system with --base-root DIR.',
  })
}
