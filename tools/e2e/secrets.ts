/**
 * A superuser of a tenant's Postgres runs what they like in its container, and shares network and processes with the
 * proxy: what is the proxy's alone must stay so.
 */
import { fail } from '@understory/base'
import { kubectl } from './programs.ts'
import type { Tools } from './programs.ts'

/**
 * A line `seen` for each process of the proxy, not this one, and `open …` for everything that can be read, written or
 * signalled.
 */
const LOOK = `
for process in /proc/[0-9]*; do
  tr '\\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q compute-prox[y] || continue
  # One of Postgres's own user is not the proxy; signals would end what is looked from.
  [ "$(stat -c %u "$process")" = "$(id -u)" ] && continue
  echo seen
  ls "$process/root/etc/understory" >/dev/null 2>&1 && echo "open $process/root"
  ls "$process/root/own" >/dev/null 2>&1 && echo "open $process/root/own"
  cat "$process/environ" >/dev/null 2>&1 && echo "open $process/environ"
  cat "$process/mem" >/dev/null 2>&1 && echo "open $process/mem"
  ls "$process/fd" >/dev/null 2>&1 && echo "open $process/fd"
  for signal in 0 USR1 KILL; do
    kill -$signal "\${process#/proc/}" 2>/dev/null && echo "open kill -$signal"
  done
done
for path in /own /etc/understory /var/run/secrets/kubernetes.io /compute/spec /compute/state.json /compute/configuration.json; do
  [ -e "$path" ] && echo "open $path"
done
(true >/orders/written) 2>/dev/null && echo "open /orders"
rm /orders/pg_hba.managed.conf 2>/dev/null && echo "open /orders/pg_hba.managed.conf"
env | grep -iqE 'token|password|secret|AWS_' && echo "open environment"
true`

/**
 * Puts links to secrets of the proxy where it looks for files of PGDATA, for some of its looks, and takes them away
 * again.
 */
const LINK = `
cd /compute/pgdata && cp -p pg_ident.conf /tmp/pg_ident.conf || exit 1
for target in /etc/understory/tls/tls.key /proc/self/environ /own/spec; do
  ln -sf "$target" pg_ident.conf
  sleep 3
done
rm pg_ident.conf && cp -p /tmp/pg_ident.conf pg_ident.conf`

/**
 * The part of the configuration that the proxy has kept by then, in the clear, but for the key that is Postgres's own.
 */
const KEPT = `node -e "
const { files, soundFiles } = JSON.parse(require('fs').readFileSync('/own/configuration.json', 'utf8'))
for (const [name, text] of [...Object.entries(files), ...Object.entries(soundFiles)])
  if (name !== 'server.key') console.log(Buffer.from(text, 'base64').toString())"`

/** Error: refused with what is open, or where nothing was seen and so nothing tried. */
export async function checkSecrets(tools: Tools, pod: string): Promise<void> {
  const within = (container: string, script: string): Promise<string> =>
    kubectl(tools, 'exec', pod, '-c', container, '--', 'sh', '-c', script)
  const lines = (await within('postgres', LOOK)).split('\n')
  const open = lines.filter((line) => line.startsWith('open'))
  if (open.length > 0) throw fail('precondition', `Postgres can look into its proxy: ${open.join(', ')}`)
  if (!lines.includes('seen')) throw fail('precondition', 'Postgres does not see its proxy at all')
  await within('postgres', LINK)
  const kept = await within('compute-proxy', KEPT)
  if (!kept.includes('host all all')) throw fail('precondition', 'the proxy has kept no configuration')
  if (/PRIVATE KEY|UNDERSTORY_|AWS_/.test(kept))
    throw fail('precondition', 'the proxy keeps what a link in PGDATA leads to')
}
