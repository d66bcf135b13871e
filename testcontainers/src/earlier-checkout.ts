/**
 * The programs of an earlier commit, for tests that run two versions side by side: its files as git has them, with the
 * packages that are installed here.
 */
import { mkdir, readdir, symlink } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { runCommand } from './process.ts'

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..', '..')
/** The commit that changed it last is the one whose programs the next release has to work beside. */
const RELEASE_MARK = 'proto/baseline.binpb'

/** The commit of the last release, or undefined where git does not know its history (a shallow clone, no git). */
export async function lastRelease(): Promise<string | undefined> {
  const log = await git('log', '-1', '--format=%H', '--', RELEASE_MARK).catch(() => '')
  return log.trim() || undefined
}

/** Lays `commit` out below `folder`, which an unprivileged user must be able to traverse; returns its root. */
export async function earlierCheckout(commit: string, folder: string): Promise<string> {
  const root = join(folder, commit)
  await mkdir(root, { recursive: true })
  const archive = join(folder, `${commit}.tar`)
  await git('archive', '--output', archive, commit)
  await runCommand({ name: 'tar', command: 'tar', args: ['-xf', archive, '-C', root] })
  const modules = join(root, 'node_modules')
  await mkdir(join(modules, '@understory'), { recursive: true })
  const installed = join(ROOT, 'node_modules')
  for (const name of await readdir(installed)) {
    if (name === '@understory') continue
    await symlink(join(installed, name), join(modules, name))
  }
  // Our own packages are those of the commit: each knows its name.
  for (const parent of ['libs', 'apps', '.']) {
    const names = parent === '.' ? ['testcontainers', 'bench'] : await readdir(join(root, parent))
    for (const name of names) await symlink(join(root, parent, name), join(modules, '@understory', name))
  }
  return root
}

const git = (...args: string[]): Promise<string> =>
  runCommand({ name: 'git', command: 'git', args: ['-C', ROOT, ...args] })
