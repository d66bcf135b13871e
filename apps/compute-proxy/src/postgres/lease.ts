/**
 * How long Postgres outlives its proxy, on a host: a process beside it ends it a grace after the last proxy that held
 * its lease is gone, unless another proxy takes the lease by then (I2).
 *
 * The lease is a FIFO in the compute's own folder. The proxy has it open for writing, and the kernel closes it when
 * that process ends, however it ends. The guard waits for that in a read, so that nothing is polled. It is a child of
 * the postmaster: where another process ends the guard, the postmaster takes it for a crash and ends itself
 * (postmaster.c, CleanupBackend in 16, process_pm_child_exit "untracked child process" in 17 and 18). Exit codes 0 and
 * 1 of a child are not a crash to it: the guard ends with 0 only where the server is gone.
 */
import { spawn } from 'node:child_process'
import { closeSync, constants, openSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { fail } from '@understory/base'
import type { Clock } from '@understory/env'

/** Between the first signal to a Postgres that is not adopted and the second. */
const KILL_AFTER_S = 5
/** A guard that has just found the lease free opens it again within that. */
const TAKE_WAIT_MS = 500
const POLL_MS = 5

/**
 * A program for sh: arguments are the number of the process that starts it, the lease, the grace in seconds, and the
 * command, whose place in the table of processes the shell's own becomes. Signals to all processes of a terminal are
 * not for the guard.
 *
 * Its caller has the kernel end the shell with that process (I4): the command must not begin when a successor may
 * already work on the same files. A process that ended before the kernel was asked is no longer the shell's parent. The
 * command itself ends with the guard, and clears that signal as the last thing before it begins.
 */
export const GUARDED = `# Written by compute-proxy: runs a command, and ends it when no proxy holds its lease any more.
[ "$PPID" = "$1" ] || exit 1
lease=$2 grace=$3 server=$$
shift 3
# Without a fork, which may fail, and in doubt it is not.
is_over() {
  if read -r _ _ _ parent _ <"/proc/$guard/stat"; then
    [ "$parent" != "$server" ]
  else
    ! kill -0 "$guard"
  fi
}
watch() {
  trap '' HUP TERM
  cd /
  read -r guard _ </proc/self/stat || { kill -KILL "$server"; exit 2; }
  # The proxy may be gone before its lease is opened, too, and opening waits for a proxy that holds it.
  end_later &
  timer=$!
  while exec 3<"$lease"; do
    kill -KILL "$timer"
    while read -r _ <&3; do :; done
    exec 3<&-
    if is_over; then exit 0; fi
    end_later &
    timer=$!
  done
  exit 2
}
end_later() {
  trap 'kill -KILL "$guard"' EXIT
  sleep "$grace"
  for signal in QUIT KILL; do
    if is_over; then break; fi
    kill "-$signal" "$server"
    [ $signal = KILL ] || sleep ${KILL_AFTER_S}
  done
}
watch >/dev/null 2>&1 &
exec "$@"
`

export interface Lease {
  /** Nothing is to be ended for it any more, or the guard is to do so. */
  release(): void
}

/** For a server that is about to be started. Errors: `precondition`. */
export async function makeLease(path: string): Promise<Lease> {
  // Waiters for the lease before keep waiting for that one.
  await rm(path, { force: true })
  const code = await new Promise<number | null | Error>((resolve) => {
    const program = spawn('mkfifo', ['-m', '600', path], { stdio: 'ignore' })
    program.once('error', resolve)
    program.once('exit', resolve)
  })
  if (code !== 0)
    throw fail('precondition', `could not make FIFO "${path}"`, {
      detail: code instanceof Error ? code.message : `mkfifo ended with exit code ${code}`,
      cause: code,
    })
  // For both, or it would wait for the guard, which begins later.
  return leaseOf(openSync(path, constants.O_RDWR))
}

/** Of a server that an earlier proxy started. Undefined where no guard is there. */
export async function takeLease(path: string, clock: Clock): Promise<Lease | undefined> {
  const untilMs = clock.nowMs() + TAKE_WAIT_MS
  for (;;) {
    try {
      return leaseOf(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK))
    } catch (error) {
      // ENXIO: no process has it open for reading.
      if (!(error instanceof Error && 'code' in error && error.code === 'ENXIO')) return undefined
      if (clock.nowMs() > untilMs) return undefined
    }
    await clock.sleep(POLL_MS)
  }
}

function leaseOf(fd: number): Lease {
  let isOpen = true
  return {
    release() {
      if (isOpen) closeSync(fd)
      isOpen = false
    },
  }
}
