/** CPU time of processes and all that they started, and bytes over loopback, from /proc (Linux, proc(5)). */
import { readFile, readdir } from 'node:fs/promises'

/** USER_HZ, which Linux fixes at 100 for what it shows in /proc. */
const TICKS_PER_SECOND = 100

interface ProcessTimes {
  readonly parentPid: number
  /** Its own and that of children that have ended. */
  readonly ticks: number
}

async function timesOf(pid: string): Promise<ProcessTimes | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  // The name in brackets may hold spaces; fields are counted after it: state is 3, ppid 4, utime to cstime 14-17.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  if (fields.length < 15) return undefined
  const ticks = [11, 12, 13, 14].reduce((sum, i) => sum + Number(fields[i]), 0)
  return { parentPid: Number(fields[1]), ticks }
}

/** Seconds of CPU that the processes and their descendants have used so far. */
export async function cpuSecondsOf(pids: readonly number[]): Promise<number> {
  const all = new Map<number, ProcessTimes>()
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const times = await timesOf(name)
    if (times !== undefined) all.set(Number(name), times)
  }
  const belongs = (pid: number): boolean => {
    for (let at = pid; at > 1; at = all.get(at)?.parentPid ?? 0) if (pids.includes(at)) return true
    return false
  }
  let ticks = 0
  for (const [pid, times] of all) if (belongs(pid)) ticks += times.ticks
  return ticks / TICKS_PER_SECOND
}

/** Bytes that have gone over the loopback interface so far. */
export async function loopbackBytes(): Promise<number> {
  return Number(await readFile('/sys/class/net/lo/statistics/rx_bytes', 'utf8'))
}
