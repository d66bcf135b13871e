/**
 * The user that servers run as. Postgres refuses to start as root, so a root session hands its servers to `postgres`
 * (or `nobody`); any other session runs them as itself.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fail } from '@understory/base'

export interface UserIds {
  readonly name: string
  readonly uid: number
  readonly gid: number
}

/** Whom servers run as when this process is root; undefined when it is not, and they can run as itself. */
export function unprivilegedUser(): UserIds | undefined {
  if (process.getuid?.() !== 0) return undefined
  const users = parsePasswd(readFileSync('/etc/passwd', 'utf8'))
  const user = users.get('postgres') ?? users.get('nobody')
  if (user !== undefined) return user
  throw fail('precondition', 'there is neither a user "postgres" nor a user "nobody" to run servers as', {
    hint: 'Create one of them, or run as a user other than root.',
  })
}

/** The rows of passwd(5), by name. */
export function parsePasswd(text: string): Map<string, UserIds> {
  const users = new Map<string, UserIds>()
  for (const line of text.split('\n')) {
    const [name, , uid, gid] = line.split(':')
    if (name === undefined || name === '' || uid === undefined || gid === undefined) continue
    users.set(name, { name, uid: Number(uid), gid: Number(gid) })
  }
  return users
}

/**
 * That `user` gets to a folder that is there: each folder above it lets it through. The kernel is asked, because there
 * are access lists beside the modes. Errors: `precondition` that names the folder in the way.
 */
export function checkReachable(folder: string, user: UserIds | undefined, what: string): void {
  if (user === undefined || mayEnter(folder, user)) return
  let closed = folder
  while (dirname(closed) !== closed && !mayEnter(dirname(closed), user)) closed = dirname(closed)
  throw fail('precondition', `user "${user.name}" of Postgres cannot reach ${what} "${folder}"`, {
    detail: `folder "${closed}" does not let it through`,
    hint: `Choose another folder, or run: chmod o+x ${closed}`,
  })
}

const mayEnter = (folder: string, { uid, gid }: UserIds): boolean =>
  spawnSync('test', ['-x', folder], { uid, gid, cwd: '/', env: { PATH: process.env['PATH'] } }).status === 0
