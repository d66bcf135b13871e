/**
 * The program of the Postgres container in a pod, as Postgres's own user, in plain sh, because its image may be any. It
 * carries out each `request` in its own folder, one after the other, and answers in the folder that it shares with the
 * proxy:
 *
 *   answers/runner       process id of this script
 *   answers/pid.ID       of the server that it started      refused.ID  there was no token
 *   answers/ended.ID     exit code of that server
 *   answers/done.ID      exit code of any other request
 *   answers/server.key   a copy for the proxy
 *   answers/stop-asked   the container was asked to stop: the proxy decides how
 *
 * The proxy has another user, so no process here can signal it, and it can signal none here: INT.ID, QUIT.ID and
 * KILL.ID beside `request` are its signals to the server.
 */
import { LOG_BYTES_MAX } from './launcher.ts'

/** Arguments: the folder that is shared. */
export const RUNNER = `# Written by compute-proxy: does what it asks for, and starts Postgres for a token alone.
orders=\${0%/*}
cd -P "$1" || exit 1
umask 007
mkdir -p answers sockets || exit 1
trap ': >answers/stop-asked' TERM INT QUIT
answer() {
  echo "$2" >"answers/$1.new" && mv -f "answers/$1.new" "answers/$1"
}

# Ends every process of Postgres that works in the data directory.
end_old() {
  signal=QUIT
  rounds=0
  while :; do
    found=
    for process in /proc/[0-9]*; do
      case $(readlink "$process/cwd" 2>/dev/null) in
        "$PWD/pgdata" | "$PWD/pgdata (deleted)") ;;
        *) continue ;;
      esac
      case $(readlink "$process/exe" 2>/dev/null) in
        */postgres | */initdb | */postgres" (deleted)")
          found=yes
          kill "-$signal" "\${process#/proc/}" 2>/dev/null
          ;;
      esac
    done
    [ -z "$found" ] && return 0
    rounds=$((rounds + 1))
    [ "$rounds" -gt 20 ] && signal=KILL
    sleep 0.05
  done
}

# A data directory that is empty and Postgres's own, in which the group may write.
empty() {
  end_old
  rm -rf pgdata
  if [ -e pgdata ] || [ -L pgdata ]; then mv pgdata "removed.$id" || return 1; fi
  mkdir pgdata && chmod 2770 pgdata
}

install() {
  for file in "$orders/install.$id"/*; do
    name=\${file##*/}
    cp "$file" "pgdata/$name.new" || return 1
    # Postgres refuses a key that a group may read.
    case $name in server.key) chmod 600 "pgdata/$name.new" ;; esac
    mv -f "pgdata/$name.new" "pgdata/$name" || return 1
  done
  hand_over_key
}

# The proxy keeps it with the other files of the configuration, and cannot read it where it is.
hand_over_key() {
  if [ pgdata/server.key -nt answers/server.key ] || [ ! -e answers/server.key ]; then
    cp pgdata/server.key answers/server.key.new 2>/dev/null &&
      chmod 640 answers/server.key.new &&
      mv -f answers/server.key.new answers/server.key
  fi
  return 0
}

start() {
  if [ -n "$server" ] || ! rm start-token 2>/dev/null; then
    answer "refused.$id" 1
    return
  fi
  # Postgres takes no other mode, and keeps its files readable for the group by this one.
  chmod 2750 pgdata
  : >postgres.log
  serve &
  server=$!
  serving=$id
  client=$proxy
  looks=0
  orphaned=0
  answer "pid.$id" "$server"
}

# Nothing here outlives the proxy that asked for it. What has only begun may miss a signal: the signal is repeated.
look_after_server() {
  # One that ended is reaped by the last sleep at the latest.
  if ! kill -0 "$server" 2>/dev/null; then
    wait "$server"
    answer "ended.$serving" $?
    server=
    return
  fi
  for signal in INT QUIT KILL; do
    [ -e "$orders/$signal.$serving" ] && kill "-$signal" "$server" 2>/dev/null
  done
  if [ ! -d "/proc/$client" ]; then
    orphaned=$((orphaned + 1))
    if [ "$orphaned" -le 25 ]; then kill -QUIT "$server" 2>/dev/null; else kill -KILL "$server" 2>/dev/null; fi
  fi
  hand_over_key
  looks=$((looks + 1))
  [ $((looks % 25)) = 0 ] && [ "$(wc -c <postgres.log)" -gt ${LOG_BYTES_MAX} ] && : >postgres.log
}

answer runner $$
: >>postgres.log
tail -n 0 -F postgres.log 2>/dev/null &
log=$!
last=
server=
while [ -n "$server" ] || [ ! -e "$orders/over" ]; do
  [ -n "$server" ] && look_after_server
  if [ -e "$orders/request" ] && read -r line <"$orders/request" && [ "$line" != "$last" ]; then
    . "$orders/request"
    last="id=$id"
    "$kind"
    answer "done.$id" $?
  else
    # A signal that is trapped ends it.
    sleep 0.2
  fi
done
kill "$log"
exit 0
`
