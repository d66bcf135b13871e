/**
 * Users of the computes of a host that runs as root: one a timeline, so that the superuser of a tenant, who runs any
 * program as Postgres's user, reaches neither another tenant's files, sockets and processes nor those of the host. No
 * such user has a name: the kernel needs none.
 *
 * A number is a digest of the compute's folder in a range that no tool gives out, so that two hosts on one machine do
 * not choose the same, not for one timeline either, and is kept in `computes.json`. Range: 0x70000000 to 0x7FFFFFFF,
 * which systemd leaves unused (its UIDS-GIDS.md). Where a user namespace, as of a rootless container, has 65,536 users
 * at most, it is 20000 to 59999.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { assert, fail } from '@understory/base'
import { parsePasswd } from '@understory/env'
import type { Clock } from '@understory/env'

export interface UserRange {
  readonly first: number
  readonly count: number
}

const RANGES: readonly UserRange[] = [
  { first: 0x7000_0000, count: 0x1000_0000 },
  { first: 20_000, count: 40_000 },
]
const POLL_MS = 20

/**
 * The first range that `uidMap`, as /proc/self/uid_map has it (user_namespaces(7)), has whole. Errors: `precondition`.
 */
export function usableRange(uidMap: string): UserRange {
  const mapped = uidMap
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => line.trim().split(/\s+/).map(Number))
  const found = RANGES.find(({ first, count }) =>
    mapped.some(([from = 0, , length = 0]) => from <= first && first + count <= from + length),
  )
  if (found !== undefined) return found
  throw fail('precondition', 'this user namespace has no users for the computes of a host', {
    hint: 'Map users 20000 to 59999 into it, or run the host as a user other than root, with one tenant.',
  })
}

/** A number that is not in `taken`, the same each time for a folder alone in its place. */
export function chooseUser(folder: string, { first, count }: UserRange, taken: ReadonlySet<number>): number {
  const start = createHash('sha256').update(folder).digest().readUInt32LE()
  for (let i = 0; i < count; i++) {
    const uid = first + ((start + i) % count)
    if (!taken.has(uid)) return uid
  }
  throw fail('precondition', 'this host has no user left for another compute')
}

/** Users of the machine, by their numbers. */
export const namedUsers = (): Set<number> =>
  new Set([...parsePasswd(readFileSync('/etc/passwd', 'utf8')).values()].map(({ uid }) => uid))

/** As `usableRange`, of this process. */
export const ownRange = (): UserRange => usableRange(readFileSync('/proc/self/uid_map', 'utf8'))

/**
 * Kills every process of a compute's user, and returns when none is left. For root, and users of the ranges above
 * alone.
 */
export async function endUser(uid: number, clock: Clock): Promise<void> {
  assert(
    RANGES.some(({ first, count }) => uid >= first && uid < first + count),
    () => `user ${uid} is not of a compute`,
  )
  while (hasProcesses(uid)) {
    // kill(2) with -1, by that user itself: all of them at once, with anything that they start at that moment.
    const killer = spawn('sh', ['-c', 'kill -KILL -1'], { uid, gid: uid, cwd: '/', env: {}, stdio: 'ignore' })
    await new Promise<void>((resolve, reject) => {
      killer.once('error', reject)
      killer.once('exit', () => resolve())
    })
    if (hasProcesses(uid)) await clock.sleep(POLL_MS)
  }
}

/** Processes that ended and have not been waited for yet do not count. */
function hasProcesses(uid: number): boolean {
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    let status: string
    try {
      status = readFileSync(`/proc/${name}/status`, 'utf8')
    } catch {
      // It has ended.
      continue
    }
    const [, real] = /^Uid:\s+(\d+)/m.exec(status) ?? []
    if (Number(real) === uid && !/^State:\s+[ZX]/m.test(status)) return true
  }
  return false
}
