/**
 * A superuser of a tenant's Postgres runs what they like in its container, and sees the processes of the other one: what
 * is theirs alone must stay so.
 */
import { refuse } from '@understory/base'
import { kubectl } from './programs.ts'
import type { Tools } from './programs.ts'

/** A line `seen` for each process of the proxy, not this one, and `open …` for what of it can be looked into. */
const LOOK = `
for process in /proc/[0-9]*; do
  tr '\\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q compute-prox[y] || continue
  echo seen
  ls "$process/root/etc/understory" >/dev/null 2>&1 && echo "open $process/root"
  cat "$process/environ" >/dev/null 2>&1 && echo "open $process/environ"
  ls "$process/fd" >/dev/null 2>&1 && echo "open $process/fd"
done
true`

/** Error: refused with what is open, or where nothing was seen and so nothing tried. */
export async function checkSecrets(tools: Tools, pod: string): Promise<void> {
  const lines = (await kubectl(tools, 'exec', pod, '-c', 'postgres', '--', 'sh', '-c', LOOK)).split('\n')
  const open = lines.filter((line) => line.startsWith('open'))
  if (open.length > 0) throw refuse('precondition', `Postgres can look into its proxy: ${open.join(', ')}`)
  if (!lines.includes('seen')) throw refuse('precondition', 'Postgres does not see its proxy at all')
}
