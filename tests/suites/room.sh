#!/bin/bash
# Runs one suite on one broker, alone in a network of its own:
#
#   room.sh leveret|rabbitmq|none NAME
#
# from the suite's working folder, with OUTCOMES naming the file to append to and LEVERET the
# binary. The suite finds the broker's RABBITMQCTL, where there is one. `cargo xtask suites`
# calls this inside fresh network and process namespaces, so that the usual ports are free, and
# nothing that is started here outlives this script.
set -euo pipefail
broker=$1 suite=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$PWD
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT

ip link set lo up

# A suite's own settings for a broker, with @WORK@ for its working folder.
settings() {
  if [ -f "$here/$suite/$1" ]; then sed "s|@WORK@|$work|g" "$here/$suite/$1"; fi
}

await_port() {
  for _ in $(seq 600); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
  done
  echo "room: $broker does not listen on $1" >&2
  tail -n 40 "$home/server.log" >&2
  exit 3
}

start_leveret() {
  settings leveret.toml > "$home/leveret.toml"
  # An older server may not know all keys; what needs them then fails by name.
  if ! "$LEVERET" check-config --config "$home/leveret.toml"; then : > "$home/leveret.toml"; fi
  export LEVERET_DATA_DIR="$home/data"
  if [ -f "$here/$suite/behind-relay" ]; then
    export LEVERET_AMQP_LISTEN=127.0.0.2:5672 LEVERET_HTTP_LISTEN=127.0.0.2:15672
  fi
  (cd "$home" && exec "$LEVERET" serve --config leveret.toml) > "$home/server.log" 2>&1 &
  pid=$!
  if [ -f "$here/$suite/behind-relay" ]; then python3 "$here/relay.py" & fi
  await_port 5672
  await_port 15672
  export RABBITMQCTL="$here/rabbitmqctl.sh"
}

start_rabbitmq() {
  local bin=/usr/lib/rabbitmq/bin
  export RABBITMQ_NODENAME=suite@localhost RABBITMQ_MNESIA_BASE="$home/mnesia" \
    RABBITMQ_LOG_BASE="$home/log" RABBITMQ_PID_FILE="$home/pid" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$home/plugins" RABBITMQ_CONFIG_FILE="$home/rabbitmq" \
    RABBITMQ_CONF_ENV_FILE="$home/none"
  echo '[rabbitmq_management].' > "$home/plugins"
  { echo 'disk_free_limit.absolute = 50MB'
    # The suites look at connections at once, not at a sample of some seconds ago.
    echo 'collect_statistics_interval = 1000'
    settings rabbitmq.conf; } > "$home/rabbitmq.conf"
  HOME="$home" "$bin/rabbitmq-server" > "$home/server.log" 2>&1 &
  pid=$!
  await_port 5672
  await_port 15672
  # The cookie is in the broker's home. Debian's own wrapper would change to another user.
  RABBITMQCTL=$home/rabbitmqctl
  printf '#!/bin/sh\nHOME=%s exec %s/rabbitmqctl "$@"\n' "$home" "$bin" > "$RABBITMQCTL"
  chmod +x "$RABBITMQCTL"
  export RABBITMQCTL
}

stop() {
  [ -n "$pid" ] || return 0
  if ! kill -TERM "$pid" 2>/dev/null; then
    echo "room: $broker had ended by itself" >&2
    tail -n 40 "$home/server.log" >&2
    exit 4
  fi
  for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  if grep -a 'panicked at' "$home/server.log" >&2; then exit 4; fi
}

pid=
case $broker in
  leveret) start_leveret ;;
  rabbitmq) start_rabbitmq ;;
  # Many a client tries for ever.
  none) export TEST_SECONDS=10 FILE_SECONDS="${FILE_SECONDS:-300}" ;;
  *) echo "room: no broker is called $broker" >&2; exit 2 ;;
esac
"$here/$suite/suite.sh" run
if [ -n "${SERVER_LOG:-}" ] && [ -n "$pid" ]; then cp "$home/server.log" "$SERVER_LOG"; fi
stop
